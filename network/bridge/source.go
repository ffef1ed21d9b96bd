package bridge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"banger"
)

// source is the addresses that one TAP may send from.
type source struct {
	tap string
	mac net.HardwareAddr
	ip  netip.Addr
}

// source checks a link and returns its source. The TAP's name derives from the id.
func (d *Driver) source(link banger.Link) (source, error) {
	bad := func(err error) (source, error) {
		return source{}, banger.Errorf(banger.CodeInvalid, "the link of vm %q to %s: %w", link.VM, d.cfg.Name, err)
	}
	if !banger.IsID(link.VM) {
		return source{}, banger.Errorf(banger.CodeInvalid, "%q is no VM's id", link.VM)
	}
	mac, err := net.ParseMAC(link.Net.MAC)
	if err != nil || len(mac) != 6 {
		return bad(&net.AddrError{Err: "not an Ethernet address", Addr: link.Net.MAC})
	}
	p, err := netip.ParsePrefix(link.Net.Address)
	if err != nil {
		return bad(err)
	}
	if !d.cfg.Subnet.Contains(p.Addr()) || p.Addr() == d.gateway {
		return source{}, banger.Errorf(banger.CodeConflict, "vm %s has the address %s, which isn't for guests in %s", link.VM, p.Addr(), d.cfg.Subnet).
			WithHint("the bridge's subnet was changed after the VM was made: set it back, or make the VM anew")
	}
	return source{tapPrefix + link.VM, mac, p.Addr()}, nil
}

const bridgeAlias = "banger bridge"

// alias is the TAP's alias (IFLA_IFALIAS). It says whose the TAP is and which addresses it
// may send from, so that the tables can be made from the TAPs alone.
func (d *Driver) alias(s source) string {
	return strings.Join([]string{"banger", d.owner(), s.mac.String(), s.ip.String()}, " ")
}

// owner is a short digest of the state directory's path: an alias has 255 bytes.
func (d *Driver) owner() string {
	sum := sha256.Sum256([]byte(d.cfg.Owner))
	return hex.EncodeToString(sum[:6])
}

// mine reads the alias of a TAP of this daemon; false for any other link.
func (d *Driver) mine(l netlink.Link) (source, bool) {
	s, owner, ok := parse(l)
	return s, ok && owner == d.owner()
}

// parse reads the alias of a TAP of any banger daemon.
func parse(l netlink.Link) (s source, owner string, ok bool) {
	id, named := strings.CutPrefix(l.Attrs().Name, tapPrefix)
	f := strings.Fields(l.Attrs().Alias)
	if !named || !banger.IsID(id) || l.Type() != "tuntap" || len(f) != 4 || f[0] != "banger" {
		return s, "", false
	}
	mac, err := net.ParseMAC(f[2])
	if err != nil {
		return s, "", false
	}
	ip, err := netip.ParseAddr(f[3])
	if err != nil || !ip.Is4() {
		return s, "", false
	}
	return source{l.Attrs().Name, mac, ip}, f[1], true
}

// port is a TAP on the bridge, of this banger daemon or another one.
type port struct {
	source
	owner string
	link  netlink.Link
}

// portsOf lists the TAPs of banger daemons on a bridge, and the names of its other ports.
func portsOf(br netlink.Link) (list []port, strange []string, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, nil, err
	}
	for _, l := range links {
		if l.Attrs().MasterIndex != br.Attrs().Index {
			continue
		}
		if s, owner, ok := parse(l); ok {
			list = append(list, port{s, owner, l})
		} else {
			strange = append(strange, l.Attrs().Name)
		}
	}
	return list, strange, nil
}

// Objects lists TAPs under our names.
func (d *Driver) Objects(context.Context) ([]banger.Found, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var list []banger.Found
	for _, l := range links {
		id, named := strings.CutPrefix(l.Attrs().Name, tapPrefix)
		if !named {
			continue
		}
		f := banger.Found{Kind: "tap", Name: l.Attrs().Name, VM: id}
		if _, owner, ok := parse(l); !ok {
			f.Claim, f.VM, f.Detail = banger.Foreign, "", "not a TAP of banger's"
		} else if owner != d.owner() {
			f.Claim, f.Detail = banger.Foreign, "of another state directory"
		}
		list = append(list, f)
	}
	return list, nil
}

// RemoveObjects removes a VM's TAP.
func (d *Driver) RemoveObjects(ctx context.Context, id string) error {
	_, err := d.CleanUp(ctx, id, banger.Handles{})
	return err
}

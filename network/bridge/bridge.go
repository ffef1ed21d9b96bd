// Package bridge connects VMs to a bridge of the host's: one TAP for each,
// source addresses held to what was allocated, NAT to the outside, neighbours
// and the host's own services closed unless opened.
//
// It owns the bridge of its name, the TAPs whose names derive from VM ids and
// which say in their alias that they are ours, and the nftables tables that have
// the bridge's name. Everything is asked of the kernel anew each time: it keeps
// no state, and refuses to touch a link, a table or a rule that isn't so marked.
// The one thing beyond that it sets is net.ipv4.ip_forward, without which
// nothing is routed; it never unsets it, for others may rely on it.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"banger"
)

// Config is what the driver is told.
type Config struct {
	Name   string       // of the bridge and of the tables: begins with "banger", at most 15 bytes
	Subnet netip.Prefix // IPv4; its first address is the host's
	DNS    string       // name server for guests; empty: none
	NAT    bool         // guests reach what the host can reach
	Peers  bool         // guests reach each other
	Ports  []uint16     // TCP and UDP ports of the host that guests reach
	Owner  string       // whose TAPs are ours: the state directory
}

// Driver is the banger.Networks of one bridge.
type Driver struct {
	cfg     Config
	gateway netip.Addr
	mu      sync.Mutex // one change at a time
}

var (
	_ banger.Networks      = (*Driver)(nil)
	_ banger.KernelObjects = (*Driver)(nil)
)

const (
	namePrefix = "banger"
	tapPrefix  = "bgr" // with a VM's id 15 bytes, the most a link's name has (IFNAMSIZ)
)

// New checks the configuration. It touches nothing.
func New(cfg Config) (*Driver, error) {
	if !strings.HasPrefix(cfg.Name, namePrefix) || len(cfg.Name) > 15 || strings.ContainsAny(cfg.Name, "/ \t\n") {
		return nil, banger.Errorf(banger.CodeInvalid, "a bridge can't be named %q", cfg.Name).
			WithHint("use a name of at most 15 letters and digits that begins with %q", namePrefix)
	}
	if !cfg.Subnet.IsValid() || !cfg.Subnet.Addr().Is4() || cfg.Subnet.Bits() > 29 || cfg.Subnet.Bits() < 8 {
		return nil, banger.Errorf(banger.CodeInvalid, "%s isn't an IPv4 subnet for a bridge", cfg.Subnet).
			WithHint("use one like 10.213.0.0/16")
	}
	cfg.Subnet = cfg.Subnet.Masked()
	return &Driver{cfg: cfg, gateway: cfg.Subnet.Addr().Next()}, nil
}

// Allocate returns the lowest address that is free.
func (d *Driver) Allocate(taken []banger.NetConfig) (banger.NetConfig, error) {
	used := map[netip.Addr]bool{}
	for _, t := range taken {
		if p, err := netip.ParsePrefix(t.Address); err == nil {
			used[p.Addr()] = true
		}
	}
	for a := d.gateway.Next(); d.cfg.Subnet.Contains(a.Next()); a = a.Next() { // the last one is the broadcast address
		if !used[a] {
			return banger.NetConfig{
				Mode: banger.NetBridge, Address: netip.PrefixFrom(a, d.cfg.Subnet.Bits()).String(),
				Gateway: d.gateway.String(), DNS: d.cfg.DNS,
			}, nil
		}
	}
	return banger.NetConfig{}, banger.Errorf(banger.CodeUnavailable, "every address of %s is taken", d.cfg.Subnet).
		WithHint("delete a VM, or give the bridge a larger subnet")
}

// Set makes bridge, TAP and tables.
func (d *Driver) Set(ctx context.Context, link banger.Link) (banger.Handles, error) {
	s, err := d.source(link)
	if err != nil {
		return banger.Handles{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return banger.Handles{}, err
	}
	br, err := d.bridge()
	if err != nil {
		return banger.Handles{}, fmt.Errorf("bridge %s: %w", d.cfg.Name, err)
	}
	if err := d.tap(br, s); err != nil {
		return banger.Handles{}, fmt.Errorf("TAP %s: %w", s.tap, err)
	}
	if err := d.rules(br); err != nil {
		return banger.Handles{}, fmt.Errorf("nftables table %s: %w", d.cfg.Name, err)
	}
	// Up only now: before its rules stand, a guest sends nothing.
	l, err := netlink.LinkByName(s.tap)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return banger.Handles{}, fmt.Errorf("TAP %s: %w", s.tap, err)
	}
	return banger.Handles{Tap: s.tap}, nil
}

// CleanUp removes the TAP and takes it out of the tables.
func (d *Driver) CleanUp(_ context.Context, id string, held banger.Handles) (banger.Handles, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := tapPrefix + id
	l, err := netlink.LinkByName(name)
	if missing(err) {
		return held.With(banger.NetHandles, banger.Handles{}), d.tidy()
	}
	if err != nil {
		return held, fmt.Errorf("TAP %s: %w", name, err)
	}
	if _, ok := d.mine(l); !ok {
		// Ours never was, or is gone: this one has its name.
		return held.With(banger.NetHandles, banger.Handles{}), nil
	}
	if err := netlink.LinkDel(l); err != nil && !missing(err) {
		return held, fmt.Errorf("remove TAP %s: %w", name, err)
	}
	if _, err := netlink.LinkByIndex(l.Attrs().Index); !missing(err) {
		return held, errors.Join(err, banger.Errorf(banger.CodeUnavailable, "TAP %s is still there", name))
	}
	return held.With(banger.NetHandles, banger.Handles{}), d.tidy()
}

// tidy makes the tables those of the TAPs there are. Where the bridge is gone
// the tables stay as they are: they name nothing that exists.
func (d *Driver) tidy() error {
	br, err := netlink.LinkByName(d.cfg.Name)
	if missing(err) {
		return nil
	}
	if err == nil {
		err = d.rules(br)
	}
	if err != nil {
		return fmt.Errorf("nftables table %s: %w", d.cfg.Name, err)
	}
	return nil
}

// bridge returns the bridge, made where there is none.
func (d *Driver) bridge() (netlink.Link, error) {
	br, err := netlink.LinkByName(d.cfg.Name)
	if missing(err) {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: d.cfg.Name, Alias: bridgeAlias}}); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		if br, err = netlink.LinkByName(d.cfg.Name); err == nil {
			err = netlink.LinkSetAlias(br, bridgeAlias)
		}
		if err == nil {
			br, err = netlink.LinkByName(d.cfg.Name)
		}
	}
	if err != nil {
		return nil, err
	}
	if br.Type() != "bridge" || br.Attrs().Alias != bridgeAlias {
		return nil, banger.Errorf(banger.CodeConflict, "a %s link of this name is there that banger didn't make", br.Type()).
			WithHint("remove it, or name another bridge in the configuration")
	}
	want := netlink.Addr{IPNet: &net.IPNet{IP: d.gateway.AsSlice(), Mask: net.CIDRMask(d.cfg.Subnet.Bits(), 32)}}
	if err := netlink.AddrReplace(br, &want); err != nil {
		return nil, err
	}
	if d.cfg.NAT || d.cfg.Peers {
		if err := forwarding(); err != nil {
			return nil, err
		}
	}
	return br, netlink.LinkSetUp(br)
}

// forwarding has the kernel route (Documentation/networking/ip-sysctl.rst).
func forwarding() error {
	const path = "/proc/sys/net/ipv4/ip_forward"
	if is, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(is)) == "1" {
		return nil
	}
	return os.WriteFile(path, []byte("1\n"), 0o644)
}

// tap makes a VM's TAP a port of the bridge. It stays when the VMM closes it.
func (d *Driver) tap(br netlink.Link, s source) error {
	l, err := netlink.LinkByName(s.tap)
	if missing(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = s.tap
		made := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_NO_PI}
		if err := netlink.LinkAdd(made); err != nil {
			return err
		}
		if l, err = netlink.LinkByName(s.tap); err == nil {
			err = netlink.LinkSetAlias(l, d.alias(s))
		}
		if err != nil {
			return errors.Join(err, netlink.LinkDel(made))
		}
	} else if err != nil {
		return err
	} else if _, ok := d.mine(l); !ok && l.Attrs().Alias != "" || l.Type() != "tuntap" {
		return banger.Errorf(banger.CodeConflict, "a link of this name is there that isn't ours").
			WithHint("remove it: ip link delete %s", s.tap)
	}
	if err := netlink.LinkSetAlias(l, d.alias(s)); err != nil {
		return err
	}
	if l.Attrs().MasterIndex == br.Attrs().Index {
		return nil
	}
	return netlink.LinkSetMaster(l, br)
}

func missing(err error) bool {
	_, ok := errors.AsType[netlink.LinkNotFoundError](err)
	return ok
}

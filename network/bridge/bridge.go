// Package bridge connects VMs to a bridge of the host. Each VM has one TAP and may send
// only from the addresses allocated to it. NAT leads to other networks. Other VMs and the
// host's own services are closed unless the configuration opens them.
//
// It owns the bridge of its name, the TAPs whose names derive from VM ids and whose alias
// says that they are ours, and the nftables tables with the bridge's name. Several daemons
// of root may share them: each answers for its own guests. It keeps no state but asks the
// kernel each time, and it never touches a link, a table or a rule of others. Beyond that
// it only sets net.ipv4.ip_forward, without which nothing is routed. It never unsets it,
// as others may rely on it.
package bridge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"banger"
	"banger/host/hostfs"
)

// Config configures the driver.
type Config struct {
	Name   string       // of the bridge and of the tables: begins with "banger", at most 15 bytes
	Subnet netip.Prefix // IPv4; its first address is the host's
	DNS    string       // name server for guests; empty: none
	NAT    bool         // guests reach the networks that the host reaches
	Peers  bool         // guests reach each other
	Ports  []uint16     // TCP and UDP ports of the host that guests reach
	Owner  string       // marks our TAPs: the path of the state directory
	Lock   string       // lock file, so that daemons sharing the bridge change it one at a time
}

// Driver is the banger.Networks of one bridge.
type Driver struct {
	cfg     Config
	gateway netip.Addr
	mu      sync.Mutex // guards what follows, and is held during a change
	wrote   bool       // this process has written the tables
}

var (
	_ banger.Networks      = (*Driver)(nil)
	_ banger.KernelObjects = (*Driver)(nil)
)

const (
	namePrefix = "banger"
	tapPrefix  = "bgr" // with a VM's id 15 bytes, the longest name of a link (IFNAMSIZ)
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

// Allocate returns the lowest address that is free. Running guests of other daemons
// count, too.
func (d *Driver) Allocate(taken []banger.NetConfig) (banger.NetConfig, error) {
	used := map[netip.Addr]bool{}
	if links, err := netlink.LinkList(); err == nil { // else Set reports the error
		for _, l := range links {
			if s, owner, ok := parse(l); ok && owner != d.owner() {
				used[s.ip] = true
			}
		}
	}
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
	unlock, err := d.lock(ctx)
	if err != nil {
		return banger.Handles{}, err
	}
	defer unlock()
	br, err := d.bridge()
	if err != nil {
		return banger.Handles{}, fmt.Errorf("bridge %s: %w", d.cfg.Name, err)
	}
	if err := d.vacant(s); err != nil {
		return banger.Handles{}, err
	}
	if err := d.tap(br, s); err != nil {
		return banger.Handles{}, fmt.Errorf("TAP %s: %w", s.tap, err)
	}
	if err := d.rules(br); err != nil {
		return banger.Handles{}, fmt.Errorf("nftables table %s: %w", d.cfg.Name, err)
	}
	if d.cfg.NAT || d.cfg.Peers {
		if err := forwarding(); err != nil {
			return banger.Handles{}, fmt.Errorf("route for bridge %s: %w", d.cfg.Name, err)
		}
	}
	// Up only now: a guest may send nothing before its rules are in effect.
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
func (d *Driver) CleanUp(ctx context.Context, id string, held banger.Handles) (banger.Handles, error) {
	unlock, err := d.lock(ctx)
	if err != nil {
		return held, err
	}
	defer unlock()
	name := tapPrefix + id
	l, err := netlink.LinkByName(name)
	if missing(err) {
		return held.With(banger.NetHandles, banger.Handles{}), d.tidy()
	}
	if err != nil {
		return held, fmt.Errorf("TAP %s: %w", name, err)
	}
	if _, ok := d.mine(l); !ok && !unnamed(l) {
		// Ours is gone, if it ever was there: somebody else's has its name.
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

// tidy makes the tables match the TAPs that exist. If the bridge is gone, it leaves the
// tables: then they name nothing that exists.
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

// bridge returns the bridge, and makes it when missing.
func (d *Driver) bridge() (netlink.Link, error) {
	br, err := netlink.LinkByName(d.cfg.Name)
	mac := net.HardwareAddr(nil)
	if missing(err) {
		mac = d.mac()
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
		return nil, banger.Errorf(banger.CodeConflict, "there is a %s link of this name that banger didn't make", br.Type()).
			WithHint("remove it, or name another bridge in the configuration")
	}
	// A bridge without a MAC of its own takes the lowest of its ports. That changes as
	// ports come and go, and guests then lose their gateway until they ask again. A MAC
	// that is in use stays: guests know it.
	if mac == nil {
		mac = br.Attrs().HardwareAddr
	}
	if mac.String() == "00:00:00:00:00:00" {
		mac = d.mac()
	}
	if err := netlink.LinkSetHardwareAddr(br, mac); err != nil {
		return nil, err
	}
	want := netlink.Addr{IPNet: &net.IPNet{IP: d.gateway.AsSlice(), Mask: net.CIDRMask(d.cfg.Subnet.Bits(), 32)}}
	if err := netlink.AddrReplace(br, &want); err != nil {
		return nil, err
	}
	return br, netlink.LinkSetUp(br)
}

// mac is the bridge's own MAC, which is locally administered (IEEE 802, the second bit of
// the first octet).
func (d *Driver) mac() net.HardwareAddr {
	sum := sha256.Sum256([]byte("bridge " + d.cfg.Name))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}

// vacant returns CodeConflict if another VM of this host has the address: another daemon
// of root gave it to that VM.
func (d *Driver) vacant(s source) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if other, owner, ok := parse(l); ok && other.ip == s.ip && other.tap != s.tap && owner != d.owner() {
			return banger.Errorf(banger.CodeConflict, "the address %s is used by VM %s of another daemon of root", s.ip, strings.TrimPrefix(other.tap, tapPrefix)).
				WithHint("stop that VM; or delete this one and make it again: it then has another address")
		}
	}
	return nil
}

// lock makes sure that nobody else changes the bridge, in this daemon or another one.
func (d *Driver) lock(ctx context.Context) (unlock func(), err error) {
	d.mu.Lock()
	f, err := hostfs.OpenLocked(ctx, d.cfg.Lock)
	if err != nil {
		d.mu.Unlock()
		return nil, fmt.Errorf("lock bridge %s: %w", d.cfg.Name, err)
	}
	return func() { _ = f.Close(); d.mu.Unlock() }, nil
}

// forwarding makes the kernel route packets (Documentation/networking/ip-sysctl.rst).
func forwarding() error {
	const path = "/proc/sys/net/ipv4/ip_forward"
	if is, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(is)) == "1" {
		return nil
	}
	return os.WriteFile(path, []byte("1\n"), 0o644)
}

// isolate keeps a port apart from other isolated ports, even without the tables.
func (d *Driver) isolate(l netlink.Link) error {
	is, err := netlink.LinkGetProtinfo(l)
	if err != nil || is.Isolated == !d.cfg.Peers {
		return err
	}
	return netlink.LinkSetIsolated(l, !d.cfg.Peers)
}

func missing(err error) bool {
	_, ok := errors.AsType[netlink.LinkNotFoundError](err)
	return ok
}

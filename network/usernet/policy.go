package usernet

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"banger/network/nearby"
)

var errClosed = errors.New("closed to the guest")

// forbidden are networks that trust this host, and addresses that no other machine has. The
// link-local network, where most clouds' metadata services are, is closed, too.
var forbidden = append(nearby.Trusting(),
	netip.MustParsePrefix("0.0.0.0/8"),   // "this network", RFC 1122
	netip.MustParsePrefix("240.0.0.0/4"), // reserved, and broadcast
)

// closed reports whether a guest may not reach an address: an address of the host, of its
// neighbours on the link-local network and on its own bridges, of networks that trust the
// host, of our own subnet, or one that isn't of a single other machine.
func (n *Network) closed(a netip.Addr) bool {
	return !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() ||
		n.cfg.Subnet.Contains(a) || slices.ContainsFunc(forbidden, func(p netip.Prefix) bool { return p.Contains(a) }) ||
		n.policy.closed(a)
}

// maxKnown bounds for how many addresses a verdict is kept.
const maxKnown = 4096

// policy knows which addresses belong to the host or its neighbours. It asks the kernel's
// routing table once for each address, and keeps the answer until the kernel reports a change
// of an address, a route or a device.
type policy struct {
	mu      sync.Mutex
	known   map[netip.Addr]bool // is it closed; at most maxKnown
	ask     func(netip.Addr) (closed, sure bool)
	changed func() bool // whether something has changed since it was last asked
	close   func()
}

func newPolicy() *policy {
	p := &policy{ask: hostOwns, changed: func() bool { return true }, close: func() {}}
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE)
	if err != nil {
		return p // without messages about changes nothing is kept
	}
	p.close = s.Close
	p.changed = func() bool {
		changed := false
		for {
			// The message's content doesn't matter. The kernel queues it before the system call
			// that makes the change returns, so it is seen here before the change can be used.
			_, _, err := unix.Recvfrom(s.GetFd(), make([]byte, 1), unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			if err == unix.EAGAIN {
				return changed
			}
			changed = true // on an error messages were lost
			if err != nil && err != unix.ENOBUFS && err != unix.EINTR {
				return true
			}
		}
	}
	return p
}

func (p *policy) closed(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed() || len(p.known) >= maxKnown || p.known == nil {
		p.known = map[netip.Addr]bool{}
	}
	verdict, ok := p.known[a]
	if !ok {
		var sure bool
		if verdict, sure = p.ask(a); sure {
			p.known[a] = verdict
		}
	}
	return verdict
}

// hostOwns asks the kernel whether an address is the host's, one of its neighbours', or
// nobody's. If that isn't sure, the address is closed for now.
func hostOwns(a netip.Addr) (closed, sure bool) {
	routes, err := netlink.RouteGet(net.IP(a.AsSlice()))
	if err != nil {
		return true, errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST {
			return true, true
		}
		in, err := inside(r.LinkIndex)
		if in || err != nil {
			return true, err == nil
		}
	}
	return len(routes) == 0, true
}

// inside reports whether a device leads to the host's own neighbours: it is of such a kind
// and has no default route.
func inside(index int) (bool, error) {
	link, err := netlink.LinkByIndex(index)
	if err != nil || !slices.Contains(nearby.Kinds(), link.Type()) {
		return false, err
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	return !slices.ContainsFunc(routes, func(r netlink.Route) bool {
		if r.Dst == nil {
			return true
		}
		ones, _ := r.Dst.Mask.Size()
		return ones == 0
	}), err
}

// hostResolvers reads the host's name servers, resolv.conf(5): at most three.
// It is read anew for each flow, as laptops change networks.
func hostResolvers() []string {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer f.Close()
	var servers []string
	lines := bufio.NewScanner(f)
	for lines.Scan() && len(servers) < 3 {
		if w := strings.Fields(lines.Text()); len(w) >= 2 && w[0] == "nameserver" {
			servers = append(servers, net.JoinHostPort(w[1], "53"))
		}
	}
	return servers
}

package usernet

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var errClosed = errors.New("closed to the guest")

// closed reports an address a guest may not reach: the host itself by any of
// its names, its neighbours on the link-local net (cloud metadata services
// live there), our own subnet, and anything that isn't one far machine. What is
// the host's own is asked of the kernel's routing table each time, so an
// address added a moment ago is closed too.
func (n *Network) closed(a netip.Addr) bool {
	if !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() ||
		n.cfg.Subnet.Contains(a) || a.As4()[0] == 0 || a.As4()[0] >= 240 {
		return true
	}
	routes, err := netlink.RouteGet(net.IP(a.AsSlice()))
	if err != nil || len(routes) == 0 {
		return true // no way there, or nobody could tell: as closed as can be
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST {
			return true
		}
	}
	return false
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

// Package nearby lists the neighbours of a host that trust everyone on it, so that guests
// must not reach them: the networks of clouds' metadata services, and the kinds of links
// that lead to containers and VMs of the host.
//
// It knows nothing of how a network keeps its guests from them.
package nearby

import "net/netip"

// Trusting returns the networks with services that give secrets to anyone on this host.
// The link-local network, 169.254.0.0/16, where most clouds have theirs, isn't among them.
func Trusting() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("192.0.0.0/24"),       // protocol assignments, RFC 6890; Oracle Cloud's metadata
		netip.MustParsePrefix("100.100.100.200/32"), // Alibaba Cloud's metadata
		netip.MustParsePrefix("168.63.129.16/32"),   // Azure's host
	}
}

// Kinds returns the kinds of links (IFLA_INFO_KIND, rtnetlink(7)) that lead to containers,
// pods and other VMs of a host: those trust everyone on their host.
func Kinds() []string {
	return []string{"bridge", "veth", "vxlan", "geneve", "ipip", "dummy", "macvlan", "ipvlan", "openvswitch"}
}

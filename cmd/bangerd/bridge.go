package main

import (
	"bufio"
	"net/netip"
	"os"
	"strings"

	"banger"
	"banger/bridge"
	"banger/config"
	"banger/xdg"
)

// hostNetworks returns the networks that need something of the host: none for a
// daemon that isn't root.
func hostNetworks(conf config.Config, dirs xdg.Dirs) (map[banger.NetMode]banger.Networks, []banger.KernelObjects, error) {
	if os.Getuid() != 0 {
		return nil, nil, nil
	}
	subnet, err := netip.ParsePrefix(conf.BridgeSubnet)
	if err != nil {
		return nil, nil, banger.Errorf(banger.CodeInvalid, "bridge_subnet is %q: %w", conf.BridgeSubnet, err).
			WithHint("set it to one like 10.213.0.0/16 in config.toml")
	}
	var ports []uint16
	for _, p := range conf.BridgePorts {
		ports = append(ports, uint16(p)) // in bounds: checked when it was read
	}
	br, err := bridge.New(bridge.Config{
		Name: "banger0", Subnet: subnet, DNS: resolver(), NAT: conf.BridgeNAT, Peers: conf.BridgePeers, Ports: ports, Owner: dirs.State,
	})
	if err != nil {
		return nil, nil, err
	}
	return map[banger.NetMode]banger.Networks{banger.NetBridge: br}, []banger.KernelObjects{br}, nil
}

// resolver returns the first name server of the host's that a guest can reach
// too (resolv.conf(5)): one that listens on the host's loopback isn't, and
// systemd-resolved, which does, says elsewhere where it asks. Empty: none.
func resolver() string {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		defer func() { _ = f.Close() }()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			w := strings.Fields(lines.Text())
			if len(w) < 2 || w[0] != "nameserver" {
				continue
			}
			if a, err := netip.ParseAddr(w[1]); err == nil && a.Is4() && !a.IsLoopback() {
				return a.String()
			}
		}
	}
	return ""
}

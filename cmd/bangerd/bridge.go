package main

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"strings"

	"banger"
	"banger/config"
	"banger/host/xdg"
	"banger/network/bridge"
)

// bridgeName is the name of the bridge, which all daemons of root share.
const bridgeName = "banger0"

// hostNetworks returns the networks that change the host's own network. Only root's
// daemon has any; for others the bridge is nil.
func hostNetworks(conf config.Config, dirs xdg.Dirs) (*bridge.Driver, map[banger.NetMode]banger.Networks, []banger.KernelObjects, error) {
	if os.Getuid() != 0 {
		return nil, nil, nil, nil
	}
	br, err := openBridge(conf, dirs)
	if err != nil {
		return nil, nil, nil, err
	}
	return br, map[banger.NetMode]banger.Networks{banger.NetBridge: br}, []banger.KernelObjects{br}, nil
}

func openBridge(conf config.Config, dirs xdg.Dirs) (*bridge.Driver, error) {
	subnet, err := netip.ParsePrefix(conf.BridgeSubnet)
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "bridge_subnet is %q: %w", conf.BridgeSubnet, err).
			WithHint("set it to one like 10.213.0.0/16 in config.toml")
	}
	var ports []uint16
	for _, p := range conf.BridgePorts {
		ports = append(ports, uint16(p)) // in bounds: checked when it was read
	}
	return bridge.New(bridge.Config{
		Name: bridgeName, Subnet: subnet, DNS: resolver(), NAT: conf.BridgeNAT, Peers: conf.BridgePeers, Ports: ports,
		Owner: dirs.State, Lock: "/run/" + bridgeName + ".lock",
	})
}

// obstacles returns a function that finds what on this host keeps VMs on the bridge
// from reaching other networks.
func obstacles(conf config.Config) func() ([]string, error) {
	return func() ([]string, error) {
		_, err := net.InterfaceByName(bridgeName)
		if os.Getuid() != 0 || !conf.BridgeNAT || err != nil && conf.Net != string(banger.NetBridge) {
			return nil, nil
		}
		return bridge.Obstacles(bridgeName)
	}
}

// resolver returns the host's first name server that a guest can reach, too
// (resolv.conf(5)), or "". A guest can't reach a server on the host's loopback.
// systemd-resolved is one, and has the servers that it asks in another file.
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

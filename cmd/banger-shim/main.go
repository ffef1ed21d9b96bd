// Command banger-shim is the process beside every running VM. It only joins package
// shim, which says what it does, with package usernet, which is its network, package publish,
// which leads the host's ports into its guest, and package jail, which is where VMMs run that have no
// jailer.
package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"banger/guest"
	"banger/network/usernet"
	"banger/vmm/jail"
	"banger/vmm/publish"
	"banger/vmm/shim"
)

func main() {
	os.Exit(shim.Main(os.Args[1:], startNet, jail.Jailer{}, func(to guest.Dialer, born time.Time) shim.Ports { return publish.New(to, born) }))
}

func startNet(cfg shim.NetConfig, frames *os.File) (io.Closer, error) {
	guest, err := netip.ParsePrefix(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("guest address: %w", err)
	}
	gateway, err := netip.ParseAddr(cfg.Gateway)
	if err != nil {
		return nil, fmt.Errorf("gateway address: %w", err)
	}
	dns, err := netip.ParseAddr(cfg.DNS)
	if err != nil {
		return nil, fmt.Errorf("DNS address: %w", err)
	}
	return usernet.Start(usernet.Config{
		Local: cfg.Local, Remote: cfg.Remote, Frames: frames,
		Subnet: guest.Masked(), Gateway: gateway, DNS: dns,
	})
}

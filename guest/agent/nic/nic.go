// Package nic configures the guest's network devices: loopback, and the one
// Ethernet device there may be. It knows nothing of where addresses come from.
package nic

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/uevent"
)

// Configure brings up the loopback device and, unless id is nil, the
// machine's one network device, as eth0.
func Configure(id *guest.NetIdentity) error {
	if err := netlink.LinkSetUp(device(1)); err != nil { // the loopback device is always the first
		return fmt.Errorf("bring lo up: %w", err)
	}
	if id == nil {
		return nil
	}
	index, err := findNIC()
	if err != nil {
		return err
	}
	return configure(device(index), id)
}

// device is a device with this index, which is all that requests need.
func device(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

// configure makes a device that is down the eth0 of id, and brings it up.
func configure(nic netlink.Link, id *guest.NetIdentity) error {
	address, err := address(id)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(id.MAC)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(nic, mac); err != nil {
		return fmt.Errorf("give eth0 the MAC %s: %w", mac, err)
	}
	if err := netlink.LinkSetName(nic, "eth0"); err != nil {
		return fmt.Errorf("name eth0: %w", err)
	}
	if err := netlink.LinkSetUp(nic); err != nil {
		return fmt.Errorf("bring eth0 up: %w", err)
	}
	if err := netlink.AddrReplace(nic, address); err != nil {
		return fmt.Errorf("address %s: %w", address.IPNet, err)
	}
	if id.Gateway == "" {
		return nil
	}
	gateway := net.ParseIP(id.Gateway)
	if gateway == nil {
		return fmt.Errorf("gateway %q is no address", id.Gateway)
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: nic.Attrs().Index, Gw: gateway}); err != nil {
		return fmt.Errorf("route by %s: %w", gateway, err)
	}
	return nil
}

// address is id's address, without a broadcast address.
func address(id *guest.NetIdentity) (*netlink.Addr, error) {
	a, err := netlink.ParseAddr(id.Address)
	if err != nil {
		return nil, err
	}
	a.Broadcast = net.IPv4zero
	return a, nil
}

// Reconfigure changes the one network device from old to id. It takes the device down,
// since any driver then lets the MAC be changed; that also removes the routes.
func Reconfigure(old, id *guest.NetIdentity) error {
	if old == nil || id == nil {
		if old != id {
			return errors.New("a machine with a network can't become one without")
		}
		return nil
	}
	index, err := findNIC()
	if err != nil {
		return err
	}
	return reconfigure(device(index), old, id)
}

func reconfigure(nic netlink.Link, old, id *guest.NetIdentity) error {
	if err := netlink.LinkSetDown(nic); err != nil {
		return fmt.Errorf("take eth0 down: %w", err)
	}
	if old.Address != id.Address {
		a, err := address(old)
		if err != nil {
			return err
		}
		// A user of the guest may have removed it.
		if err := netlink.AddrDel(nic, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("drop address %s: %w", a.IPNet, err)
		}
	}
	return configure(nic, id)
}

// wait bounds the wait for a device to appear after its driver was loaded.
const wait = 5 * time.Second

// findNIC waits for the one Ethernet device and returns its index. The kernel makes a
// device's link before its attributes (device_add in drivers/base/core.c), so a device
// without an index isn't ready yet.
func findNIC() (int, error) {
	events := uevent.Listen("net")
	defer events.Close()
	for end := time.Now().Add(wait); ; events.Wait(uevent.LookAgain) {
		devices, err := filepath.Glob("/sys/class/net/*/device") // only hardware has one
		if err != nil {
			return 0, err
		}
		if len(devices) > 0 {
			text, err := os.ReadFile(filepath.Join(filepath.Dir(devices[0]), "ifindex"))
			if err == nil {
				return strconv.Atoi(strings.TrimSpace(string(text)))
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return 0, err
			}
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("no network device after %v", wait)
		}
	}
}

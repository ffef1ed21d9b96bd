package nic

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/guest"
)

// namespace puts the test into a network namespace of its own, for good: the
// thread ends with the test. It returns a device that is down.
func namespace(t *testing.T) netlink.Link {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	runtime.LockOSThread() // never unlocked, so that no other test gets this thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "raw0"}, PeerName: "raw1"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName("raw1")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		t.Fatal(err)
	}
	return device(pair.Index)
}

// seen is what the kernel says of eth0.
func seen(t *testing.T) (mac string, addresses, gateways []string) {
	t.Helper()
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		addresses = append(addresses, a.IPNet.String())
		if len(a.Broadcast) > 0 && !a.Broadcast.IsUnspecified() {
			t.Errorf("%s has the broadcast address %s", a.IPNet, a.Broadcast)
		}
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Gw != nil {
			gateways = append(gateways, r.Gw.String())
		}
	}
	if link.Attrs().OperState == netlink.OperDown {
		t.Error("eth0 is down")
	}
	return link.Attrs().HardwareAddr.String(), addresses, gateways
}

func one(got []string, want string) bool { return len(got) == 1 && got[0] == want }

func TestConfigure(t *testing.T) {
	dev := namespace(t)
	if err := Configure(nil); err != nil { // loopback alone
		t.Fatal(err)
	}
	first := &guest.NetIdentity{MAC: "02:01:02:03:04:05", Address: "10.0.2.15/24", Gateway: "10.0.2.2"}
	if err := configure(dev, first); err != nil {
		t.Fatal(err)
	}
	if mac, a, g := seen(t); mac != first.MAC || !one(a, first.Address) || !one(g, first.Gateway) {
		t.Errorf("got %s, %v, %v", mac, a, g)
	}
	second := &guest.NetIdentity{MAC: "02:01:02:03:04:06", Address: "10.0.2.16/24", Gateway: "10.0.2.3"}
	for range 2 { // the second time the first address is gone already
		if err := reconfigure(dev, first, second); err != nil {
			t.Fatal(err)
		}
		if mac, a, g := seen(t); mac != second.MAC || !one(a, second.Address) || !one(g, second.Gateway) {
			t.Errorf("got %s, %v, %v", mac, a, g)
		}
	}
	for _, bad := range []guest.NetIdentity{
		{MAC: "x", Address: "10.0.2.15/24"}, {MAC: first.MAC, Address: "x"}, {MAC: first.MAC, Address: "10.0.2.15/24", Gateway: "x"},
	} {
		if err := reconfigure(dev, second, &bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

package bridge_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger"
	"banger/network/bridge"
	"banger/test/networktest"
)

// TestMain runs the tests in a network namespace of their own: the machine's own
// links and rules are never seen.
func TestMain(m *testing.M) {
	if os.Getenv("BANGER_TEST_NETNS") != "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "BANGER_TEST_NETNS=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	err := cmd.Run()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(e.ExitCode())
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "not run: no network namespace of its own:", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var base = bridge.Config{Name: "banger0", Subnet: netip.MustParsePrefix("10.213.0.0/24"), NAT: true, Owner: "/state", Lock: filepath.Join(os.TempDir(), "banger-bridge-test.lock")}

func open(t *testing.T, cfg bridge.Config) *bridge.Driver {
	t.Helper()
	if os.Getenv("BANGER_TEST_NETNS") == "" {
		t.Skip("not run: links and nftables need root")
	}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skip("not run: ", err)
	} else {
		_ = f.Close()
	}
	d, err := bridge.New(cfg)
	must(t, err)
	t.Cleanup(func() {
		links, err := netlink.LinkList()
		must(t, err)
		for _, l := range links {
			if n := l.Attrs().Name; strings.HasPrefix(n, "bgr") || strings.HasPrefix(n, "banger") || n == "up0" || n == "bangertap" {
				// up0 goes by itself, too: with the namespace that its other end is in.
				if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
					t.Fatal(err)
				}
			}
		}
		c, err := nftables.New()
		must(t, err)
		c.FlushRuleset()
		must(t, c.Flush())
	})
	return d
}

func taps() []string {
	var names []string
	links, _ := netlink.LinkList()
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "bgr") {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

func plant(t *testing.T, name string) {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name, a.Alias = name, "somebody's own"
	d := &netlink.Bridge{LinkAttrs: a}
	must(t, netlink.LinkAdd(d))
	must(t, netlink.LinkSetAlias(d, "somebody's own"))
}

func TestContract(t *testing.T) {
	networktest.Run(t, func(t *testing.T) networktest.Bed {
		return networktest.Bed{Networks: open(t, base), Links: taps, Plant: func(name string) { plant(t, name) }}
	})
}

// guest is a VM's end of a TAP: frames by hand, so that it can lie.
type guest struct {
	t    *testing.T
	fd   int
	mac  net.HardwareAddr
	ip   netip.Addr
	gwM  net.HardwareAddr
	name string
}

func newGuest(t *testing.T, d *bridge.Driver, id string, taken ...banger.NetConfig) (*guest, banger.NetConfig) {
	t.Helper()
	side, err := d.Allocate(taken)
	must(t, err)
	side.MAC = "02:00:00:00:00:" + id[10:]
	h, err := d.Set(t.Context(), banger.Link{VM: id, Net: side})
	must(t, err)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	ifr, err := unix.NewIfreq(h.Tap)
	must(t, err)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	br, err := netlink.LinkByName("banger0")
	must(t, err)
	g := &guest{t: t, fd: fd, ip: netip.MustParsePrefix(side.Address).Addr(), gwM: br.Attrs().HardwareAddr, name: h.Tap}
	g.mac, err = net.ParseMAC(side.MAC)
	must(t, err)
	// Who opens a TAP gives it its carrier, and the bridge takes note a moment later.
	for _, name := range []string{h.Tap, "banger0"} {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if l, err := netlink.LinkByName(name); err == nil && (l.Attrs().OperState == netlink.OperUp || name == "banger0" && l.Attrs().OperState == netlink.OperUnknown) {
				break
			} else if time.Now().After(end) {
				t.Fatalf("%s doesn't come up: %v", name, err)
			}
		}
	}
	// It answers no ARP.
	must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: br.Attrs().Index, State: netlink.NUD_PERMANENT, IP: g.ip.AsSlice(), HardwareAddr: g.mac}))
	return g, side
}

// send writes a UDP datagram's frame.
func (g *guest) send(srcMAC, dstMAC net.HardwareAddr, src, dst netip.Addr, port uint16, payload string) {
	g.t.Helper()
	f := append(bytes.Clone(dstMAC), srcMAC...)
	f = append(f, 0x08, 0x00)
	ip := make([]byte, 20, 64)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	udp := make([]byte, 8)
	binary.BigEndian.PutUint16(udp, 4000)
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	f = append(append(append(f, ip...), udp...), payload...)
	_, err := unix.Write(g.fd, f)
	must(g.t, err)
}

// sees reads what arrives until the marker does, and reports whether text was
// before it.
func (g *guest) sees(text, marker string) bool {
	g.t.Helper()
	seen := false
	buf := make([]byte, 2048)
	for {
		n, err := unix.Read(g.fd, buf)
		if err == unix.EAGAIN {
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(g.fd), Events: unix.POLLIN}}, 10000); n == 0 || err != nil && err != unix.EINTR {
				g.t.Fatalf("%s: %q never came (%v)", g.name, marker, err)
			}
			continue
		}
		must(g.t, err)
		seen = seen || bytes.Contains(buf[:n], []byte(text))
		if bytes.Contains(buf[:n], []byte(marker)) {
			return seen
		}
	}
}

// outside makes a namespace with a UDP server at 192.0.2.2:7, reached by the
// host as 192.0.2.1.
func outside(t *testing.T) *net.UDPConn {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "far0"}))
	up, err := netlink.LinkByName("up0")
	must(t, err)
	far, err := netlink.LinkByName("far0")
	must(t, err)
	addr := func(s string) *netlink.Addr {
		a, err := netlink.ParseAddr(s)
		must(t, err)
		return a
	}
	must(t, netlink.AddrAdd(up, addr("192.0.2.1/24")))
	must(t, netlink.LinkSetUp(up))
	must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: up.Attrs().Index, Gw: net.IPv4(192, 0, 2, 2)}))
	type result struct {
		conn *net.UDPConn
		err  error
	}
	done, ready, moved := make(chan result), make(chan int), make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- 0
			done <- result{nil, err}
			return
		}
		ready <- unix.Gettid()
		<-moved
		err := netlink.AddrAdd(far, addr("192.0.2.2/24"))
		if err == nil {
			err = netlink.LinkSetUp(far)
		}
		for _, more := range []string{"169.254.169.254/32", "192.0.0.192/32", "100.100.100.200/32", "168.63.129.16/32"} {
			if err == nil {
				err = netlink.AddrAdd(far, addr(more))
			}
		}
		var conn *net.UDPConn
		if err == nil {
			conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 7})
		}
		done <- result{conn, err}
	}()
	tid := <-ready
	ns, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", tid))
	if err == nil {
		must(t, netlink.LinkSetNsFd(far, int(ns.Fd())))
		_ = ns.Close()
	}
	close(moved)
	r := <-done
	must(t, r.err)
	t.Cleanup(func() { _ = r.conn.Close() })
	return r.conn
}

// hears reads from a server until the marker comes; it returns who sent text
// before that, "" for nobody.
func hears(t *testing.T, c *net.UDPConn, text, marker string) string {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	from, buf := "", make([]byte, 2048)
	for {
		n, who, err := c.ReadFromUDP(buf)
		must(t, err)
		if string(buf[:n]) == text {
			from = who.IP.String()
		}
		if string(buf[:n]) == marker {
			return from
		}
	}
}

func say(t *testing.T, to, text string) {
	t.Helper()
	c, err := net.Dial("udp4", to)
	must(t, err)
	_, err = c.Write([]byte(text))
	must(t, errors.Join(err, c.Close()))
}

var server = netip.MustParseAddr("192.0.2.2")

func TestOutAndSpoofing(t *testing.T) {
	d := open(t, base)
	far := outside(t)
	a, side := newGuest(t, d, "0123456789a1")
	b, _ := newGuest(t, d, "0123456789a2", side)
	try := func(what, want string, send func(text string)) {
		t.Helper()
		send(what)
		say(t, "192.0.2.2:7", "end of "+what)
		if got := hears(t, far, what, "end of "+what); got != want {
			t.Errorf("%s: the server heard it from %q, want %q", what, got, want)
		}
	}
	try("honest", "192.0.2.1", func(s string) { a.send(a.mac, a.gwM, a.ip, server, 7, s) })
	try("neighbour", "192.0.2.1", func(s string) { b.send(b.mac, b.gwM, b.ip, server, 7, s) })
	try("other's address", "", func(s string) { a.send(a.mac, a.gwM, b.ip, server, 7, s) })
	try("other's MAC", "", func(s string) { a.send(b.mac, a.gwM, a.ip, server, 7, s) })
	try("both of the other's", "", func(s string) { a.send(b.mac, a.gwM, b.ip, server, 7, s) })
	try("nobody's address", "", func(s string) { a.send(a.mac, a.gwM, netip.MustParseAddr("198.51.100.9"), server, 7, s) })
	cfg := base
	cfg.NAT = false
	off, err := bridge.New(cfg)
	must(t, err)
	side.MAC = a.mac.String()
	_, err = off.Set(t.Context(), banger.Link{VM: "0123456789a1", Net: side})
	must(t, err)
	try("with NAT off", "", func(s string) { a.send(a.mac, a.gwM, a.ip, server, 7, s) })
}

// A guest that begins ever new connections has so many in the host's table of them and
// no more; other guests' go on.
func TestFewConnections(t *testing.T) {
	d := open(t, base)
	far := outside(t)
	a, side := newGuest(t, d, "0123456789a1")
	b, _ := newGuest(t, d, "0123456789a2", side)
	const many = 10_000
	for port := range uint16(many) {
		a.send(a.mac, a.gwM, a.ip, server, 1000+port, "flood")
	}
	known, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	must(t, err)
	n := 0
	for _, c := range known {
		if c.Forward.SrcIP.Equal(net.IP(a.ip.AsSlice())) {
			n++
		}
	}
	t.Logf("the host remembers %d of %d connections", n, many)
	if n == 0 || n > 4200 {
		t.Errorf("the host remembers %d of %d connections", n, many)
	}
	a.send(a.mac, a.gwM, a.ip, server, 7, "one more")
	b.send(b.mac, b.gwM, b.ip, server, 7, "another's")
	say(t, "192.0.2.2:7", "end")
	if got := hears(t, far, "another's", "end"); got != "192.0.2.1" {
		t.Errorf("the other guest was heard from %q", got)
	}
}

// arp writes an ARP reply's frame: "ip is at mac", as who poisons a neighbour's or
// the gateway's table does (RFC 826).
func (g *guest) arp(frameMAC, mac net.HardwareAddr, ip, to netip.Addr) {
	g.t.Helper()
	f := append(bytes.Clone(bytes.Repeat([]byte{0xff}, 6)), frameMAC...)
	f = append(f, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2)
	f = append(append(f, mac...), ip.AsSlice()...)
	f = append(append(f, mac...), to.AsSlice()...)
	_, err := unix.Write(g.fd, f)
	must(g.t, err)
}

// neighbour says what the host believes to be the MAC of an address on the bridge.
func neighbour(t *testing.T, ip netip.Addr) string {
	t.Helper()
	br, err := netlink.LinkByName("banger0")
	must(t, err)
	list, err := netlink.NeighList(br.Attrs().Index, netlink.FAMILY_V4)
	must(t, err)
	for _, n := range list {
		if n.IP.Equal(ip.AsSlice()) {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

// A guest claims by ARP what is its own, and nothing else: neither the gateway's
// address, to its neighbours, nor a neighbour's, to the host.
func TestARPSpoofing(t *testing.T) {
	cfg := base
	cfg.Peers = true // so that frames pass between guests at all
	d := open(t, cfg)
	a, side := newGuest(t, d, "0123456789a1")
	b, _ := newGuest(t, d, "0123456789a2", side)
	gateway := netip.MustParseAddr("10.213.0.1")
	br, err := netlink.LinkByName("banger0")
	must(t, err)
	for what, c := range map[string]struct {
		frame, mac net.HardwareAddr
		ip         netip.Addr
		passes     bool
	}{
		"its own":                         {a.mac, a.mac, a.ip, true},
		"the gateway's address":           {a.mac, a.mac, gateway, false},
		"the neighbour's address":         {a.mac, a.mac, b.ip, false},
		"the neighbour's MAC for its own": {a.mac, b.mac, a.ip, false},
		"in the neighbour's frame":        {b.mac, a.mac, a.ip, false},
		"all of the neighbour's":          {b.mac, b.mac, b.ip, false},
		"nobody's address":                {a.mac, a.mac, netip.MustParseAddr("10.213.0.99"), false},
	} {
		t.Run(what, func(t *testing.T) {
			for _, g := range []*guest{a, b} {
				must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: br.Attrs().Index, State: netlink.NUD_STALE, IP: g.ip.AsSlice(), HardwareAddr: g.mac}))
			}
			a.arp(c.frame, c.mac, c.ip, gateway)
			a.arp(c.frame, c.mac, c.ip, c.ip) // gratuitous: it rewrites an entry however young
			a.send(a.mac, b.mac, a.ip, b.ip, 7, "END of "+what)
			claim := string(append(bytes.Clone(c.mac), c.ip.AsSlice()...))
			if got := b.sees(claim, "END of "+what); got != c.passes {
				t.Errorf("the neighbour sees it: %v", got)
			}
			for _, g := range []*guest{a, b} {
				if got := neighbour(t, g.ip); got != g.mac.String() {
					t.Errorf("the host believes that %s is at %s, which is %s's", g.ip, got, g.mac)
				}
			}
		})
	}
}

func TestNeighbours(t *testing.T) {
	for _, peers := range []bool{false, true} {
		t.Run(fmt.Sprintf("peers=%v", peers), func(t *testing.T) {
			cfg := base
			cfg.Peers = peers
			d := open(t, cfg)
			a, side := newGuest(t, d, "0123456789a1")
			b, _ := newGuest(t, d, "0123456789a2", side)
			for what, to := range map[string]net.HardwareAddr{"direct": b.mac, "by the gateway": a.gwM} {
				a.send(a.mac, to, a.ip, b.ip, 7, what)
				say(t, b.ip.String()+":7", "END")
				if got := b.sees(what, "END"); got != peers {
					t.Errorf("%s: seen %v", what, got)
				}
			}
		})
	}
}

func TestHostIsClosed(t *testing.T) {
	cfg := base
	cfg.Ports = []uint16{5353}
	d := open(t, cfg)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	a, _ := newGuest(t, d, "0123456789a1")
	gateway := netip.MustParseAddr("10.213.0.1")
	for port, want := range map[uint16]string{22: "", 5353: a.ip.String()} {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(port)})
		must(t, err)
		a.send(a.mac, a.gwM, a.ip, gateway, port, "hello")
		say(t, fmt.Sprintf("127.0.0.1:%d", port), "end")
		if got := hears(t, c, "hello", "end"); got != want {
			t.Errorf("port %d: heard from %q, want %q", port, got, want)
		}
		must(t, c.Close())
	}
}

// What looks like ours stays as it is.
func TestLookAlikes(t *testing.T) {
	d := open(t, base)
	c, err := nftables.New()
	must(t, err)
	for _, name := range []string{"banger", "banger0-mine", "filter"} {
		c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
	}
	must(t, c.Flush())
	plant(t, "bgrfedcba98765")
	plant(t, "bgrnotes")
	newGuest(t, d, "0123456789a1")
	other, err := bridge.New(bridge.Config{Name: "banger0", Subnet: base.Subnet, Owner: "/another", Lock: base.Lock})
	must(t, err)
	if left, err := other.CleanUp(t.Context(), "0123456789a1", banger.Handles{}); err != nil || !left.Empty() {
		t.Errorf("another's TAP: %+v, %v", left, err)
	}
	claims := map[string]banger.Claim{}
	list, err := d.Objects(t.Context())
	must(t, err)
	for _, f := range list {
		claims[f.Name] = f.Claim
	}
	if len(claims) != 3 || claims["bgr0123456789a1"] != "" || claims["bgrfedcba98765"] != banger.Foreign || claims["bgrnotes"] != banger.Foreign {
		t.Errorf("claims: %v", claims)
	}
	must(t, d.RemoveObjects(t.Context(), "fedcba987654"))
	must(t, d.RemoveObjects(t.Context(), "0123456789a1"))
	if got := taps(); len(got) != 2 {
		t.Errorf("left: %q", got)
	}
	tables, err := c.ListTables()
	must(t, err)
	if len(tables) != 5 {
		t.Errorf("%d tables", len(tables))
	}
	must(t, netlink.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "banger0"}}))
	plant(t, "banger0")
	if _, err := d.Set(t.Context(), banger.Link{VM: "0123456789a1", Net: banger.NetConfig{MAC: "02:00:00:00:00:01", Address: "10.213.0.2/24"}}); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("over a stranger's bridge: %v", err)
	}
}

// Who is killed between making a TAP and naming it leaves none; what an earlier build
// left so is the VM's by its name, and goes with it.
func TestDieMakingTap(t *testing.T) {
	d := open(t, base)
	const id = "0123456789a1"
	link := banger.Link{VM: id, Net: banger.NetConfig{MAC: "02:00:00:00:00:01", Address: "10.213.0.2/24"}}
	if os.Getenv("BANGER_TEST_DIE") != "" {
		bridge.DieMaking(func() {
			if !slices.Equal(taps(), []string{"bgr" + id}) {
				os.Exit(1)
			}
			os.Exit(42)
		})
		_, err := d.Set(t.Context(), link)
		t.Fatalf("it lives: %v", err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestDieMakingTap$")
	cmd.Env = append(os.Environ(), "BANGER_TEST_DIE=1")
	out, err := cmd.CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 42 {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := taps(); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "bgr" + id
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}))
	if left, err := d.CleanUp(t.Context(), id, banger.Handles{}); err != nil || !left.Empty() || len(taps()) > 0 {
		t.Errorf("%+v, %v; left: %q", left, err, taps())
	}
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}))
	if h, err := d.Set(t.Context(), link); err != nil || h.Tap != "bgr"+id {
		t.Errorf("over what was left: %+v, %v", h, err)
	}
}

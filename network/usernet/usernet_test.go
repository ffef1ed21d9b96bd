package usernet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"banger/network/usernet"
)

// The tests need two hosts: one that runs the stack and one beyond it. They
// are two network namespaces made here, joined by a veth pair, entered by
// running this test binary again.
const (
	hostAddr = "192.0.2.1"   // the host the guest must not reach (TEST-NET-1, RFC 5737)
	farAddr  = "192.0.2.2"   // the machine beyond
	boxAddr  = "192.0.2.130" // a container of the host's, on a bridge of the host's own
)

func TestMain(m *testing.M) {
	switch os.Getenv("USERNET_ROLE") {
	case "far":
		serve(os.Getenv("USERNET_ADDRESS"))
	case "":
		os.Exit(m.Run())
	default:
		os.Exit(m.Run())
	}
}

// serve echoes on TCP and UDP port 7 and answers "far" to any DNS datagram on 53.
func serve(addr string) {
	l, err := net.Listen("tcp", addr+":7")
	if err != nil {
		panic(err)
	}
	for _, port := range []string{":7", ":53"} {
		pc, err := net.ListenPacket("udp", addr+port)
		if err != nil {
			panic(err)
		}
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = pc.WriteTo(append([]byte(addr+" "), buf[:n]...), from)
			}
		}()
	}
	fmt.Println("serving")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}()
	}
}

func TestInNamespaces(t *testing.T) {
	if os.Getenv("USERNET_ROLE") == "near" {
		t.Skip("this is the inner run")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	near, far, box := fmt.Sprintf("bngt-n%d", os.Getpid()), fmt.Sprintf("bngt-f%d", os.Getpid()), fmt.Sprintf("bngt-b%d", os.Getpid())
	for _, ns := range []string{near, far, box} {
		ip(t, "netns", "add", ns)
		t.Cleanup(func() { ip(t, "netns", "del", ns) })
		ip(t, "-n", ns, "link", "set", "lo", "up")
	}
	ip(t, "-n", near, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", far)
	ip(t, "-n", near, "addr", "add", hostAddr+"/25", "dev", "v0")
	ip(t, "-n", far, "addr", "add", farAddr+"/25", "dev", "v1")
	ip(t, "-n", near, "link", "set", "v0", "up")
	ip(t, "-n", far, "link", "set", "v1", "up")
	ip(t, "-n", near, "route", "add", "default", "via", farAddr)
	ip(t, "-n", near, "link", "add", "br0", "type", "bridge")
	ip(t, "-n", near, "link", "add", "b0", "type", "veth", "peer", "name", "b1", "netns", box)
	ip(t, "-n", near, "link", "set", "b0", "master", "br0", "up")
	ip(t, "-n", near, "addr", "add", "192.0.2.129/25", "dev", "br0")
	ip(t, "-n", near, "link", "set", "br0", "up")
	ip(t, "-n", box, "addr", "add", boxAddr+"/25", "dev", "b1")
	ip(t, "-n", box, "link", "set", "b1", "up")
	serveIn(t, far, farAddr)
	serveIn(t, box, boxAddr)
	inner := exec.Command("ip", "netns", "exec", near, os.Args[0], "-test.v", "-test.run=^TestNear")
	inner.Env = append(os.Environ(), "USERNET_ROLE=near")
	report, err := inner.CombinedOutput()
	t.Logf("%s", report)
	if err != nil || !bytes.Contains(report, []byte("--- PASS: TestNear")) {
		t.Fatalf("inner run: %v", err)
	}
}

// serveIn runs serve in a network namespace.
func serveIn(t *testing.T, ns, addr string) {
	t.Helper()
	server := exec.Command("ip", "netns", "exec", ns, os.Args[0])
	server.Env = append(os.Environ(), "USERNET_ROLE=far", "USERNET_ADDRESS="+addr)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// near starts a stack and a guest at the two ends of a cable.
func near(t *testing.T) *guest {
	t.Helper()
	if os.Getenv("USERNET_ROLE") != "near" {
		t.Skip("run by TestInNamespaces")
	}
	dir := t.TempDir()
	cfg := usernet.Config{
		Local: filepath.Join(dir, "vmm.sock"), Remote: filepath.Join(dir, "net.sock"),
		Subnet: netip.MustParsePrefix("10.0.2.0/24"), Gateway: netip.MustParseAddr("10.0.2.2"), DNS: netip.MustParseAddr("10.0.2.3"),
		Resolvers: func() []string { return []string{farAddr + ":53"} },
	}
	g := newGuest(t, cfg.Local, cfg.Remote)
	n, err := usernet.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(cfg.Remote); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return g
}

func TestNearReachesTheFarMachine(t *testing.T) {
	g := near(t)
	c, err := g.dial(farAddr, 7)
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("echo of %d bytes: %d came back, %v", len(sent), len(got), err)
	}
	if got := g.ask(t, farAddr, 7); got != "192.0.2.2 hello" {
		t.Errorf("UDP echo answered %q", got)
	}
	if got := g.ask(t, "10.0.2.3", 53); got != "192.0.2.2 hello" {
		t.Errorf("DNS answered %q", got)
	}
	if _, err := g.dial(farAddr, 9); err == nil {
		t.Error("a port where nobody listens took a connection")
	}
}

func TestNearHostIsClosed(t *testing.T) {
	g := near(t)
	var all sync.WaitGroup // most of them only time out
	for _, addr := range []string{"127.0.0.1", hostAddr, "0.0.0.0"} {
		l, err := net.Listen("tcp4", net.JoinHostPort(addr, "0"))
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		taken := make(chan struct{})
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					close(taken)
					return
				}
				_ = c.Close()
				t.Errorf("a guest reached the host's own %s", l.Addr())
			}
		}()
		all.Go(func() {
			g.refused(t, uint16(port), addr, hostAddr, "127.0.0.1", "10.0.2.2", "10.0.2.3")
			_ = l.Close()
			<-taken
		})
	}
	all.Go(func() { g.refused(t, 80, "169.254.169.254", "224.0.0.1", "255.255.255.255", "192.0.2.127") })
	all.Go(func() { g.refused(t, 7, boxAddr) })
	all.Wait()
	c, err := net.Dial("tcp4", boxAddr+":7") // which is there for the host
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// refused dials all addresses at once: some are refused, some only time out.
func (g *guest) refused(t *testing.T, port uint16, addrs ...string) {
	t.Helper()
	var all sync.WaitGroup
	for _, addr := range addrs {
		all.Go(func() {
			if c, err := g.dial(addr, port); err == nil {
				_ = c.Close()
				t.Errorf("dialing %s:%d succeeded", addr, port)
			}
		})
	}
	all.Wait()
}

// A host address that appears while the stack runs is closed at once.
func TestNearNewAddressIsClosed(t *testing.T) {
	g := near(t)
	if _, err := g.dial("192.0.2.77", 7); err == nil { // open, but nobody is there
		t.Error("nobody answered")
	}
	ip(t, "addr", "add", "192.0.2.77/25", "dev", "v0")
	defer ip(t, "addr", "del", "192.0.2.77/25", "dev", "v0")
	l, err := net.Listen("tcp4", "192.0.2.77:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := g.dial("192.0.2.77", uint16(l.Addr().(*net.TCPAddr).Port)); err == nil {
		t.Error("the new address answered")
	}
}

// Frames no guest should send neither stop the stack nor reach anybody.
func TestNearGarbageIsIgnored(t *testing.T) {
	g := near(t)
	for n := range 200 {
		g.raw(bytes.Repeat([]byte{byte(n), 0x08, 0x00, 0x45}, n))
	}
	if got := g.ask(t, farAddr, 7); got != "192.0.2.2 hello" {
		t.Errorf("after garbage the far machine answered %q", got)
	}
}

// guest is another stack at the guest's end of the cable.
type guest struct {
	stack *stack.Stack
	send  func(frame []byte) error
}

func newGuest(t *testing.T, local, remote string) *guest {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: local, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	peer := &net.UnixAddr{Name: remote, Net: "unixgram"}
	return newGuestOn(t, conn, func(frame []byte) error { _, err := conn.WriteToUnix(frame, peer); return err })
}

// wire puts a guest at the end of a cable.
func wire(t *testing.T, cable *os.File) *guest {
	return newGuestOn(t, cable, func(frame []byte) error { _, err := cable.Write(frame); return err })
}

func newGuestOn(t *testing.T, frames io.Reader, send func([]byte) error) *guest {
	t.Helper()
	link := channel.New(512, 1514, tcpip.LinkAddress("\x02\x00\x00\x00\x00\x15"))
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	s.CreateNIC(1, ethernet.New(link))
	s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
		Address: tcpip.AddrFrom4([4]byte{10, 0, 2, 15}), PrefixLen: 24}}, stack.AddressProperties{})
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4([4]byte{10, 0, 2, 2}), NIC: 1}})
	g := &guest{s, send}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for pkt := link.ReadContext(ctx); pkt != nil; pkt = link.ReadContext(ctx) {
			g.raw(pkt.ToView().AsSlice())
			pkt.DecRef()
		}
	}()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, err := frames.Read(buf)
			if err != nil {
				return
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(buf[:n])})
			link.InjectInbound(0, pkt)
			pkt.DecRef()
		}
	}()
	t.Cleanup(func() { cancel(); s.Destroy() })
	return g
}

func (g *guest) raw(frame []byte) {
	for {
		err := g.send(frame)
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOENT) {
			return
		}
	}
}

func (g *guest) dial(addr string, port uint16) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(netip.MustParseAddr(addr).As4()), Port: port}, ipv4.ProtocolNumber)
}

// ask sends "hello" in a datagram and returns the answer.
func (g *guest) ask(t *testing.T, addr string, port uint16) string {
	t.Helper()
	c, err := gonet.DialUDP(g.stack, nil, &tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(netip.MustParseAddr(addr).As4()), Port: port}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	if err != nil {
		t.Errorf("%s:%d doesn't answer: %v", addr, port, err)
	}
	return string(buf[:n])
}

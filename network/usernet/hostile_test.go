package usernet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"banger/network/usernet"
)

var (
	gatewayIP = netip.MustParseAddr("10.0.2.2")
	dnsIP     = netip.MustParseAddr("10.0.2.3")
)

// inProcess starts a stack at one end of a cable and returns the other. The only
// place a guest reaches is the resolver, which is the caller's.
func inProcess(t testing.TB, resolver string) (*usernet.Network, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := usernet.Start(usernet.Config{
		Frames: os.NewFile(uintptr(fds[0]), "stack"), Subnet: netip.MustParsePrefix("10.0.2.0/24"),
		Gateway: gatewayIP, DNS: dnsIP, Resolvers: func() []string { return []string{resolver} },
	})
	if err != nil {
		t.Fatal(err)
	}
	cable := os.NewFile(uintptr(fds[1]), "guest")
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		_ = cable.Close()
	})
	return n, cable
}

// resolver listens for TCP and UDP on one port; UDP comes back as it came.
func resolver(t testing.TB, accept func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Close(), pc.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go accept(c)
		}
	}()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	return l.Addr().String()
}

// probe is a guest of one MAC that asks by hand-made frames.
type probe struct {
	mac           [6]byte
	at            netip.Addr
	port          uint16 // of its TCP connection
	arp, dns, tcp bool   // answered
	ack           uint32
}

// dnsPort is where a probe asks from. Those that come after it on its address ask
// from there too, so that a question each is no flow each.
const dnsPort = 4000

func (p *probe) ethernet(to []byte, proto uint16, payload []byte) []byte {
	f := append(append([]byte(nil), to...), p.mac[:]...)
	return append(binary.BigEndian.AppendUint16(f, proto), payload...)
}

func (p *probe) whoHas() []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, p.mac[:]...), p.at.AsSlice()...)
	b = append(append(b, make([]byte, 6)...), gatewayIP.AsSlice()...)
	return p.ethernet([]byte("\xff\xff\xff\xff\xff\xff"), 0x0806, b)
}

func (p *probe) ip(proto byte, transport []byte) []byte {
	b := make(header.IPv4, header.IPv4MinimumSize)
	b.Encode(&header.IPv4Fields{TotalLength: uint16(len(b) + len(transport)), TTL: 64, Protocol: proto,
		SrcAddr: tcpip.AddrFrom4(p.at.As4()), DstAddr: tcpip.AddrFrom4(dnsIP.As4())})
	b.SetChecksum(^b.CalculateChecksum())
	return p.ethernet([]byte("\x02\x62\x6e\x67\x00\x02"), 0x0800, append(b, transport...))
}

func (p *probe) sum(proto tcpip.TransportProtocolNumber, b []byte) uint16 {
	s := header.PseudoHeaderChecksum(proto, tcpip.AddrFrom4(p.at.As4()), tcpip.AddrFrom4(dnsIP.As4()), uint16(len(b)))
	return ^checksum.Checksum(b, s)
}

func (p *probe) question() []byte {
	b := make(header.UDP, header.UDPMinimumSize+2)
	b.Encode(&header.UDPFields{SrcPort: dnsPort, DstPort: 53, Length: uint16(len(b))})
	copy(b[header.UDPMinimumSize:], "hi")
	b.SetChecksum(p.sum(17, b))
	return p.ip(17, b)
}

func (p *probe) segment(flags header.TCPFlags, seq uint32) []byte {
	b := make(header.TCP, header.TCPMinimumSize)
	b.Encode(&header.TCPFields{SrcPort: p.port, DstPort: 53, SeqNum: seq, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65535})
	b.SetChecksum(p.sum(6, b))
	return p.ip(6, b)
}

// missing are the frames that have no answer yet.
func (p *probe) missing() (frames [][]byte) {
	if !p.arp {
		return [][]byte{p.whoHas()} // nobody can answer the others before
	}
	if !p.dns {
		frames = append(frames, p.question())
	}
	if !p.tcp {
		frames = append(frames, p.segment(header.TCPFlagSyn, 1))
	}
	return frames
}

// hear takes a frame to the probe.
func (p *probe) hear(f []byte) {
	switch {
	case len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 && bytes.Equal(f[38:42], p.at.AsSlice()):
		p.arp = true
	case len(f) < 54 && (len(f) < 42 || f[23] != 17) || f[12] != 8 || f[13] != 0:
	case f[23] == 17 && binary.BigEndian.Uint16(f[36:]) == dnsPort:
		p.dns = true
	case f[23] == 6 && binary.BigEndian.Uint16(f[36:]) == p.port && header.TCP(f[34:]).Flags() == header.TCPFlagSyn|header.TCPFlagAck:
		p.tcp, p.ack = true, header.TCP(f[34:]).AckNumber()
	}
}

// The network works for each MAC that a VM may get: no bits of it may be taken
// for something else.
func TestEveryMAC(t *testing.T) {
	at := resolver(t, func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
	const batch, guests, stacks = 64, 65536, 4
	for shard := range stacks {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			_, cable := inProcess(t, at)
			for first := shard * guests / stacks; first < (shard+1)*guests/stacks; first += batch {
				if testing.Short() && first>>8 > 7 && first%4096 != 0 { // the second byte's every value, and some of the others'
					continue
				}
				probes := map[[6]byte]*probe{}
				for i := first; i < first+batch; i++ {
					// A MAC has five bytes of an id: each pair of them takes every value.
					mac := [6]byte{2, byte(i), byte(i >> 8), byte(i), byte(i >> 8), byte(i)}
					probes[mac] = &probe{mac: mac, at: netip.AddrFrom4([4]byte{10, 0, 2, byte(20 + i%batch)}), port: uint16(5000 + first/batch)}
				}
				askAll(t, cable, probes)
			}
		})
	}
}

// askAll has all probes asked until each has an answer of each kind. Frames are lost
// when the cable is full, as on any.
func askAll(t *testing.T, cable *os.File, probes map[[6]byte]*probe) {
	t.Helper()
	buf := make([]byte, 65536)
	for range 100 {
		left := 0
		for _, p := range probes {
			for _, f := range p.missing() {
				left++
				_ = cable.SetWriteDeadline(time.Now().Add(10 * time.Second))
				if _, err := cable.Write(f); err != nil {
					t.Fatal(err)
				}
			}
		}
		if left == 0 {
			break
		}
		for _ = cable.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); left > 0; {
			n, err := cable.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if p := probes[[6]byte(buf[:6])]; p != nil {
				before := len(p.missing())
				p.hear(buf[:n])
				if now := len(p.missing()); now != before {
					left--
				}
			}
		}
	}
	for _, p := range probes {
		if len(p.missing()) > 0 {
			t.Fatalf("%x: ARP %v, DNS %v, TCP %v", p.mac, p.arp, p.dns, p.tcp)
		}
		_ = cable.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := cable.Write(p.segment(header.TCPFlagRst, p.ack)); err != nil {
			t.Fatal(err)
		}
	}
}

// heap returns the live memory after a collection, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// settled returns the live memory once what earlier tests left has gone.
func settled() int64 {
	for last := heap(); ; {
		time.Sleep(50 * time.Millisecond)
		now := heap()
		if last-now < 64<<10 {
			return now
		}
		last = now
	}
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// connect opens a connection to the resolver.
func (g *guest) connect(t testing.TB) *gonet.TCPConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := gonet.DialContextTCP(ctx, g.stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(dnsIP.As4()), Port: 53}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stingy makes a guest take a few KiB of a connection, unless it reads.
func (g *guest) stingy(t *testing.T, bytes int) {
	t.Helper()
	o := tcpip.TCPReceiveBufferSizeRangeOption{Min: 1, Default: bytes, Max: bytes}
	if err := g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &o); err != nil {
		t.Fatal(err.String())
	}
}

// A guest that ends its side of connections and never takes what the far side
// sent keeps its flows, and no more memory than those have: it acknowledges each
// probe of its closed window, so that nothing ever times out.
func TestZeroWindow(t *testing.T) {
	var ended atomic.Int64
	at := resolver(t, func(c net.Conn) {
		_, _ = c.Write(make([]byte, 24<<10))
		_ = c.Close()
		ended.Add(1)
	})
	n, cable := inProcess(t, at)
	g := wire(t, cable)
	g.stingy(t, 8192)
	before := settled()
	var conns []*gonet.TCPConn
	for range usernet.MaxTCP {
		c := g.connect(t)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	eventually(t, "the far side has ended all", func() bool { return ended.Load() == usernet.MaxTCP })
	if held := n.Flows(); held != usernet.MaxTCP {
		t.Errorf("%d flows are counted, of %d that hold memory", held, usernet.MaxTCP)
	}
	grown := heap() - before
	t.Logf("%d flows hold %d KiB", usernet.MaxTCP, grown>>10)
	if bound := int64(100 << 20); grown > bound {
		t.Errorf("flows that nobody takes hold %d MiB, over %d", grown>>20, bound>>20)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := gonet.DialContextTCP(ctx, g.stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(dnsIP.As4()), Port: 53}, ipv4.ProtocolNumber); err == nil {
		t.Error("one more was taken")
	}
	for _, c := range conns {
		if got, err := io.Copy(io.Discard, c); err != nil || got != 24<<10 {
			t.Fatalf("%d bytes were kept for who reads late, %v", got, err)
		}
		_ = c.Close()
	}
	eventually(t, "all flows have ended", func() bool { return n.Flows() == 0 })
}

// A guest that reads quickly, until the kernel has given its connections large windows,
// and then no more: the kernel holds for a few flows what it likes, and little for the
// others.
func TestKernelHoldsLittle(t *testing.T) {
	const flows, read = usernet.FreeFlows + 2, 4 << 20
	var held [flows]atomic.Int64 // written by the far side and not read by the guest
	var next atomic.Int64
	at := resolver(t, func(c net.Conn) {
		n := &held[next.Add(1)-1]
		_ = c.(*net.TCPConn).SetWriteBuffer(4096) // its own doesn't count
		for b := make([]byte, 16<<10); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
			n.Add(int64(len(b)))
		}
	})
	_, cable := inProcess(t, at)
	g := wire(t, cable)
	g.stingy(t, 32<<10)
	for i := range flows {
		c := g.connect(t)
		defer c.Close()
		if i > 0 && i < usernet.FreeFlows {
			continue
		}
		if _, err := io.CopyN(io.Discard, c, read); err != nil {
			t.Fatal(err)
		}
		for last := int64(-1); last != held[i].Load(); time.Sleep(100 * time.Millisecond) {
			last = held[i].Load()
		}
		held[i].Add(-read)
	}
	most := max(held[flows-1].Load(), held[flows-2].Load())
	t.Logf("the way of the first flow holds %d KiB, that of others, after %d flows, %d KiB", held[0].Load()>>10, usernet.FreeFlows, most>>10)
	if bound := int64(4 * usernet.BigBuffer); most > bound {
		t.Errorf("a flow's way holds %d KiB, over %d", most>>10, bound>>10)
	}
}

// A far side that sends byte by byte: each costs a segment until the guest takes it.
func TestDrip(t *testing.T) {
	n, cable := inProcess(t, "")
	g := wire(t, cable)
	const room = 4096
	g.stingy(t, room)
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: 1, Port: 7}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	w := n.ToGuest(t, netip.MustParseAddr("10.0.2.15"), 7)
	var wrote atomic.Int64
	go func() {
		for {
			if _, err := w.Write([]byte{1}); err != nil {
				return
			}
			wrote.Add(1)
		}
	}()
	c := <-accepted
	still := func() int64 {
		last := int64(-1)
		eventually(t, "the writer waits", func() bool {
			time.Sleep(200 * time.Millisecond)
			now := wrote.Load()
			same := now == last
			last = now
			return same
		})
		return last
	}
	if got := still(); got > room+usernet.MaxPieces {
		t.Errorf("%d writes of one byte are kept for a guest with room for %d", got, room)
	}
	before := wrote.Load()
	if _, err := io.ReadFull(c, make([]byte, room)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on when the guest reads", func() bool { return wrote.Load() > before })
}

// What goes on after ended flows is as before, and their room is given back.
func TestEndedFlowsGiveBack(t *testing.T) {
	at := resolver(t, func(c net.Conn) { _, _ = io.Copy(c, c); _ = c.Close() })
	n, cable := inProcess(t, at)
	g := wire(t, cable)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			c := g.connect(t)
			go func() { _, _ = c.Write(sent); _ = c.CloseWrite() }()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
			}
			_ = c.Close()
		})
	}
	all.Wait()
	eventually(t, "all flows have ended", func() bool { return n.Flows() == 0 })
}

// A far side that breaks is one that breaks to the guest: what it has isn't all.
func TestFarBreaks(t *testing.T) {
	at := resolver(t, func(c net.Conn) {
		_, _ = c.Write([]byte("half"))
		_, _ = c.Read(make([]byte, 1)) // the guest has it
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	})
	n, cable := inProcess(t, at)
	g := wire(t, cable)
	c := g.connect(t)
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a connection that broke ended by %d bytes, %v", n, err)
	}
	eventually(t, "the flow has ended", func() bool { return n.Flows() == 0 })
}

// More than there may be are refused, and the others go on.
func TestTooManyFlows(t *testing.T) {
	at := resolver(t, func(c net.Conn) { _, _ = io.Copy(c, c); _ = c.Close() })
	n, cable := inProcess(t, at)
	g := wire(t, cable)
	var conns []*gonet.TCPConn
	for range usernet.MaxTCP {
		conns = append(conns, g.connect(t))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := gonet.DialContextTCP(ctx, g.stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(dnsIP.As4()), Port: 53}, ipv4.ProtocolNumber); err == nil {
		t.Error("one more was taken")
	}
	for _, c := range []*gonet.TCPConn{conns[0], conns[len(conns)-1]} {
		sent := bytes.Repeat([]byte{7}, 300<<10)
		go func() { _, _ = c.Write(sent); _ = c.CloseWrite() }()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
		}
	}
	for _, c := range conns {
		_ = c.Close()
	}
	eventually(t, "all flows have ended", func() bool { return n.Flows() == 0 })
}

// A guest that sends to closed addresses makes the host ask for each once.
func TestClosedAddressesAreRemembered(t *testing.T) {
	var asked atomic.Int64
	changed := false
	closed := usernet.Policy(func(a netip.Addr) (bool, bool) {
		asked.Add(1)
		return a == netip.MustParseAddr("192.0.2.1"), a != netip.MustParseAddr("192.0.2.3")
	}, func() bool { return changed })
	for range 1000 {
		if !closed(netip.MustParseAddr("192.0.2.1")) || closed(netip.MustParseAddr("192.0.2.2")) {
			t.Fatal("the verdict is another")
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the kernel was asked %d times about 2 addresses", n)
	}
	changed = true
	closed(netip.MustParseAddr("192.0.2.1"))
	if n := asked.Load(); n != 3 {
		t.Errorf("after a change the kernel was asked %d times", n)
	}
	changed = false
	for range 2 {
		closed(netip.MustParseAddr("192.0.2.3")) // nobody could tell
	}
	if n := asked.Load(); n != 5 {
		t.Errorf("what nobody could tell was kept: asked %d times", n)
	}
	for i := range 10_000 {
		closed(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}))
	}
	if n := usernet.Known(); n > 4096 {
		t.Errorf("%d verdicts are kept", n)
	}
}

func TestTrustingAddressesAreClosed(t *testing.T) {
	n, _ := inProcess(t, "")
	for _, a := range []string{"169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.2.77"} {
		if !n.Closed(netip.MustParseAddr(a)) {
			t.Errorf("%s is open", a)
		}
	}
}

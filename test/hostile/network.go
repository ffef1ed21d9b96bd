package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// network is the guest's card: its cable for raw frames, and the kernel's own sockets.
type network struct {
	orders
	*cable
	alone bool // there is no kernel of the guest's
}

const card = "eth0"

func openNetwork(what orders) (*network, error) {
	n := &network{orders: what, cable: &cable{fd: -1, gateway: everybody}}
	copy(n.outside[:], net.ParseIP(what.Outside).To4())
	copy(n.router[:], net.ParseIP(what.Gateway).To4())
	nic, err := net.InterfaceByName(card)
	if err != nil {
		return n, err
	}
	n.own = nic.HardwareAddr
	addrs, err := nic.Addrs()
	if err != nil {
		return n, err
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil {
			copy(n.address[:], ip.IP.To4())
		}
	}
	// A jumbo frame is refused by no kernel of ours.
	if s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err == nil {
		if req, err := unix.NewIfreq(card); err == nil {
			req.SetUint32(65535)
			_ = unix.IoctlIfreq(s, unix.SIOCSIFMTU, req)
		}
		_ = unix.Close(s)
	}
	n.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return n, err
	}
	if err := unix.Bind(n.fd, &unix.SockaddrLinklayer{Ifindex: nic.Index}); err != nil {
		return n, err
	}
	// The gateway's hardware address, which the kernel asks for once somebody wants it.
	if c, err := net.DialTimeout("tcp4", net.JoinHostPort(what.Outside, fmt.Sprint(portWeb)), 5*time.Second); err == nil {
		_ = c.Close()
	}
	if arp, err := os.ReadFile("/proc/net/arp"); err == nil {
		for line := range strings.Lines(string(arp)) {
			if f := strings.Fields(line); len(f) > 5 && f[5] == card {
				if hw, err := net.ParseMAC(f[3]); err == nil {
					n.gateway = hw
				}
			}
		}
	}
	return n, nil
}

func (n *network) attacks() []attack {
	return []attack{
		// Those that need places for connections come before those that take all of them.
		{"unread connections", n.unread(portHose, 300)},
		{"more unread connections", n.unread(portHose, 3000)},
		{"unacknowledged connections", n.unacknowledged},
		{"closed addresses", n.closedAddresses},
		{"half-open connections", n.flood(n.synFrame)},
		{"filled connections", n.filled},
		{"short connections", n.short},
		{"UDP to many ports", n.flood(n.udpFrame)},
		{"UDP flows", n.udpFlows},
		{"echo requests", n.flood(n.pingFrame)},
		{"ARP storm", n.flood(n.arpFrame)},
		{"fragments", n.flood(n.fragmentFrame)},
		{"spoofed senders", n.flood(n.spoofedFrame)},
		{"IPv6", n.flood(n.ipv6Frame)},
		{"malformed frames", n.flood(n.malformedFrame)},
		{"oversized frames", n.flood(n.oversizedFrame)},
		{"TCP out of order", n.flood(n.strayTCPFrame)},
		{"names", n.names},
	}
}

// unread opens connections to who sends without end, and reads nothing of them.
func (n *network) unread(to, most int) func(time.Time, *atomic.Int64) error {
	return func(until time.Time, count *atomic.Int64) error {
		var open []net.Conn
		defer func() {
			for _, c := range open {
				_ = c.Close()
			}
		}()
		d := net.Dialer{Timeout: 2 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048) })
		}}
		var failed error
		for time.Now().Before(until) {
			if len(open) >= most {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			c, err := d.Dial("tcp4", net.JoinHostPort(n.Outside, fmt.Sprint(to)))
			if failed = err; err == nil {
				open = append(open, c)
				count.Add(1)
			}
		}
		if len(open) == 0 {
			return failed
		}
		return nil
	}
}

// unacknowledged does by hand what no kernel does: it takes part in connections with
// a window of zero, for ever, whatever comes, and ends them without taking the rest.
// It does so under an address that the guest's own kernel knows nothing of.
func (n *network) unacknowledged(until time.Time, count *atomic.Int64) error {
	in, done, err := n.hear()
	if err != nil {
		return err
	}
	defer done()
	other := n.address
	other[3] = 77
	const most = 4000
	for at, buf := 0, make([]byte, 2048); time.Now().Before(until); {
		if at < most {
			f := header.TCPFields{SrcPort: uint16(20000 + at), DstPort: portHose, SeqNum: 1, Flags: header.TCPFlagSyn, WindowSize: 4096}
			_, _ = unix.Write(n.fd, n.tcp(other, n.outside, f, nil))
			at++
		}
		for range 64 {
			size, _, err := unix.Recvfrom(in, buf, unix.MSG_DONTWAIT)
			if err != nil {
				break
			}
			n.answer(buf[:size], other, count)
		}
	}
	return nil
}

// hear returns a socket that all frames to the guest come to.
func (n *network) hear() (fd int, done func(), err error) {
	if n.alone {
		return n.fd, func() {}, nil
	}
	all := int(binary.LittleEndian.Uint16([]byte{0, unix.ETH_P_ALL})) // in network order
	in, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, all)
	return in, func() { _ = unix.Close(in) }, err
}

// answer says where other is, and acknowledges nothing but handshakes and probes.
func (n *network) answer(frame []byte, other [4]byte, count *atomic.Int64) {
	eth := header.Ethernet(frame)
	if len(frame) < header.EthernetMinimumSize || eth.SourceAddress() == tcpip.LinkAddress(n.own) {
		return
	}
	if a := header.ARP(frame[header.EthernetMinimumSize:]); eth.Type() == header.ARPProtocolNumber && a.IsValid() &&
		bytes.Equal(a.ProtocolAddressTarget(), other[:]) {
		r := header.ARP(make([]byte, header.ARPSize))
		r.SetIPv4OverEthernet()
		r.SetOp(header.ARPReply)
		copy(r.HardwareAddressSender(), n.own)
		copy(r.ProtocolAddressSender(), other[:])
		copy(r.HardwareAddressTarget(), a.HardwareAddressSender())
		copy(r.ProtocolAddressTarget(), a.ProtocolAddressSender())
		_, _ = unix.Write(n.fd, n.ethernet(n.gateway, n.own, uint16(header.ARPProtocolNumber), r))
		return
	}
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if eth.Type() != header.IPv4ProtocolNumber || !ip.IsValid(len(ip)) || ip.DestinationAddress() != tcpip.AddrFrom4(other) ||
		ip.TransportProtocol() != header.TCPProtocolNumber || len(ip.Payload()) < header.TCPMinimumSize {
		return
	}
	t := header.TCP(ip.Payload())
	f := header.TCPFields{SrcPort: t.DestinationPort(), DstPort: t.SourcePort(), SeqNum: 2, AckNum: t.SequenceNumber(), Flags: header.TCPFlagAck}
	if t.Flags()&header.TCPFlagSyn != 0 {
		f.AckNum++
		f.WindowSize = 1024
		count.Add(1)
	}
	if mrand.IntN(16) == 0 {
		f.Flags |= header.TCPFlagFin
	}
	_, _ = unix.Write(n.fd, n.tcp(other, n.outside, f, nil))
}

// filled sends to who doesn't read.
func (n *network) filled(until time.Time, count *atomic.Int64) error {
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	b := random(64 << 10)
	for time.Now().Before(until) {
		if len(open) < 1500 {
			if c, err := net.DialTimeout("tcp4", net.JoinHostPort(n.Outside, fmt.Sprint(portSink)), time.Second); err == nil {
				open = append(open, c)
			}
			count.Add(1) // as in short
		}
		if len(open) == 0 {
			continue
		}
		c := open[mrand.IntN(len(open))]
		_ = c.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		_, _ = c.Write(b)
	}
	return nil
}

// short opens connections and drops them, in every way there is.
func (n *network) short(until time.Time, count *atomic.Int64) error {
	for time.Now().Before(until) {
		to := []int{portShut, portEcho, portHose, portWeb, 1}[mrand.IntN(5)]
		c, err := net.DialTimeout("tcp4", net.JoinHostPort(n.Outside, fmt.Sprint(to)), time.Second)
		count.Add(1) // what the attacks before left open may take all places
		if err != nil {
			continue
		}
		_, _ = c.Write(random(mrand.IntN(20000)))
		switch mrand.IntN(3) {
		case 0:
			_ = c.(*net.TCPConn).SetLinger(0)
		case 1:
			_ = c.(*net.TCPConn).CloseWrite()
		}
		_ = c.Close()
	}
	return nil
}

// udpFlows sends from ever new ports to who answers with more.
func (n *network) udpFlows(until time.Time, count *atomic.Int64) error {
	return n.flood(func() []byte {
		return n.udp(n.address, n.outside, anyPort(), portAmpli, random(1200))
	})(until, count)
}

// names asks for ever new names, and goes where a lying name server sends it.
func (n *network) names(until time.Time, count *atomic.Int64) error {
	for time.Now().Before(until) {
		name := fmt.Sprintf("x%d.example", mrand.Uint32())
		if len(n.Closed) > 0 && mrand.IntN(4) == 0 {
			name = strings.ReplaceAll(n.Closed[mrand.IntN(len(n.Closed))], ".", "-") + ".lie"
		}
		r := net.Resolver{PreferGo: true}
		ctx, cancel := context.WithDeadline(context.Background(), until)
		addrs, err := r.LookupHost(ctx, name)
		cancel()
		if err == nil && strings.HasSuffix(name, ".lie") && len(addrs) > 0 {
			n.knock(addrs[0], trapPorts[mrand.IntN(len(trapPorts))])
		}
		_, _ = unix.Write(n.fd, n.udp(n.address, n.outside, anyPort(), 53, random(40)))
		count.Add(1)
	}
	return nil
}

// closedAddresses knocks wherever no guest may get to. Traps there say who came.
func (n *network) closedAddresses(until time.Time, count *atomic.Int64) error {
	for time.Now().Before(until) {
		to := n.Closed[mrand.IntN(len(n.Closed))]
		at := trapPorts[mrand.IntN(len(trapPorts))]
		n.knock(to, at)
		count.Add(1)
		ip := net.ParseIP(to).To4()
		if ip == nil {
			continue
		}
		// By hand as well, past the guest's own routes and loopback.
		var dst [4]byte
		copy(dst[:], ip)
		for _, src := range [][4]byte{n.address, {127, 0, 0, 1}, dst, n.router} {
			_, _ = unix.Write(n.fd, n.udp(src, dst, anyPort(), uint16(at), []byte("caught")))
			_, _ = unix.Write(n.fd, n.tcp(src, dst, header.TCPFields{SrcPort: anyPort(), DstPort: uint16(at), SeqNum: 1, Flags: header.TCPFlagSyn, WindowSize: 1024}, nil))
		}
	}
	return nil
}

func (n *network) knock(addr string, at int) {
	n.knockFor(50*time.Millisecond, addr, at)
}

// knockFor waits so long for an answer.
func (n *network) knockFor(patience time.Duration, addr string, at int) {
	if n.alone {
		return
	}
	where := net.JoinHostPort(addr, fmt.Sprint(at))
	if c, err := net.DialTimeout("tcp", where, patience); err == nil {
		_ = c.Close()
	}
	if c, err := net.Dial("udp", where); err == nil {
		_, _ = c.Write([]byte("caught"))
		_ = c.Close()
	}
}

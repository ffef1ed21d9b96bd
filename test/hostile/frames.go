package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	mrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// cable is the guest's card with its kernel left out: frames are sent as they are.
type cable struct {
	fd      int // a packet socket, packet(7)
	own     net.HardwareAddr
	gateway net.HardwareAddr
	router  [4]byte
	address [4]byte
	outside [4]byte
}

var everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// flood sends frame after frame.
func (c *cable) flood(frame func() []byte) func(time.Time, *atomic.Int64) error {
	return func(until time.Time, count *atomic.Int64) error {
		var failed error
		for time.Now().Before(until) {
			if _, err := unix.Write(c.fd, frame()); err != nil {
				failed = err
				if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL) {
					continue
				}
				return err
			}
			count.Add(1)
		}
		return failed
	}
}

// noiseStore is drawn from once: an emulated guest has no time for more.
var noiseStore = sync.OnceValue(func() []byte {
	b := make([]byte, 1<<20)
	_, _ = rand.Read(b)
	return b
})

// random returns bytes of their own that can't be foreseen.
func random(size int) []byte {
	return bytes.Clone(noiseStore()[mrand.IntN(1<<20-size):][:size])
}

func (c *cable) ethernet(to, from net.HardwareAddr, kind uint16, payload ...[]byte) []byte {
	b := append(append([]byte(nil), to...), from...)
	b = binary.BigEndian.AppendUint16(b, kind)
	return append(b, bytes.Join(payload, nil)...)
}

// ip returns an IPv4 packet's frame; off is its flags and fragment offset as they
// stand in the header.
func (c *cable) ip(src, dst [4]byte, proto uint8, off uint16, id uint16, payload []byte) []byte {
	h := header.IPv4(make([]byte, header.IPv4MinimumSize))
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(min(65535, len(h)+len(payload))), ID: id, TTL: 64, Protocol: proto,
		SrcAddr: tcpip.AddrFrom4(src), DstAddr: tcpip.AddrFrom4(dst),
	})
	binary.BigEndian.PutUint16(h[6:], off)
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	return c.ethernet(c.gateway, c.own, uint16(header.IPv4ProtocolNumber), h, payload)
}

func (c *cable) tcp(src, dst [4]byte, f header.TCPFields, payload []byte) []byte {
	t := header.TCP(make([]byte, header.TCPMinimumSize))
	f.DataOffset = header.TCPMinimumSize
	t.Encode(&f)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, tcpip.AddrFrom4(src), tcpip.AddrFrom4(dst), uint16(len(t)+len(payload)))
	t.SetChecksum(^t.CalculateChecksum(checksum.Checksum(payload, sum)))
	return c.ip(src, dst, uint8(header.TCPProtocolNumber), 0, uint16(mrand.Uint32()), append(t, payload...))
}

func (c *cable) udp(src, dst [4]byte, from, to uint16, payload []byte) []byte {
	u := header.UDP(make([]byte, header.UDPMinimumSize))
	u.Encode(&header.UDPFields{SrcPort: from, DstPort: to, Length: uint16(len(u) + len(payload))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, tcpip.AddrFrom4(src), tcpip.AddrFrom4(dst), uint16(len(u)+len(payload)))
	u.SetChecksum(^u.CalculateChecksum(checksum.Checksum(payload, sum)))
	return c.ip(src, dst, uint8(header.UDPProtocolNumber), 0, uint16(mrand.Uint32()), append(u, payload...))
}

func anyPort() uint16 { return uint16(1024 + mrand.IntN(64000)) }

func somewhere() (a [4]byte) { binary.BigEndian.PutUint32(a[:], mrand.Uint32()); return a }

// anywhere is an address beyond the host, or on the cable, or nobody's.
func (c *cable) anywhere() [4]byte {
	switch mrand.IntN(4) {
	case 0:
		return c.router
	case 1:
		a := c.router
		a[3] = byte(mrand.IntN(256))
		return a
	case 2:
		a := c.outside
		a[3] = byte(mrand.IntN(256))
		return a
	}
	return c.outside
}

func (c *cable) synFrame() []byte {
	to := []uint16{portWeb, portHose, portSink, portEcho, anyPort()}[mrand.IntN(5)]
	return c.tcp(c.address, c.outside, header.TCPFields{SrcPort: anyPort(), DstPort: to, SeqNum: mrand.Uint32(), Flags: header.TCPFlagSyn, WindowSize: uint16(mrand.Uint32())}, nil)
}

func (c *cable) strayTCPFrame() []byte {
	flags := header.TCPFlags(mrand.Uint32())
	return c.tcp(c.address, c.anywhere(), header.TCPFields{SrcPort: anyPort(), DstPort: portEcho, SeqNum: mrand.Uint32(), AckNum: mrand.Uint32(), Flags: flags, WindowSize: uint16(mrand.Uint32()), UrgentPointer: uint16(mrand.Uint32())}, random(mrand.IntN(1400)))
}

func (c *cable) udpFrame() []byte {
	return c.udp(c.address, c.anywhere(), anyPort(), anyPort(), random(mrand.IntN(1400)))
}

func (c *cable) pingFrame() []byte {
	i := header.ICMPv4(make([]byte, header.ICMPv4MinimumSize, 1480))
	i.SetType([]header.ICMPv4Type{header.ICMPv4Echo, header.ICMPv4Echo, header.ICMPv4DstUnreachable, header.ICMPv4Timestamp}[mrand.IntN(4)])
	i.SetIdent(uint16(mrand.Uint32()))
	i = append(i, random(mrand.IntN(1400))...)
	i.SetChecksum(0)
	i.SetChecksum(^checksum.Checksum(i, 0))
	return c.ip(c.address, c.anywhere(), uint8(header.ICMPv4ProtocolNumber), 0, uint16(mrand.Uint32()), i)
}

func (c *cable) arpFrame() []byte {
	a := header.ARP(make([]byte, header.ARPSize))
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPOp(1 + mrand.IntN(2)))
	hw, who, whom := random(6), c.anywhere(), c.anywhere()
	hw[0] &^= 1
	copy(a.HardwareAddressSender(), hw)
	copy(a.ProtocolAddressSender(), who[:])
	copy(a.HardwareAddressTarget(), random(6))
	copy(a.ProtocolAddressTarget(), whom[:])
	to := c.gateway
	if mrand.IntN(2) == 0 {
		to = everybody
	}
	return c.ethernet(to, hw, uint16(header.ARPProtocolNumber), a)
}

// whoHas asks for an address by ARP, honestly.
func (c *cable) whoHas(whom [4]byte) []byte {
	a := header.ARP(make([]byte, header.ARPSize))
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPRequest)
	copy(a.HardwareAddressSender(), c.own)
	copy(a.ProtocolAddressSender(), c.address[:])
	copy(a.ProtocolAddressTarget(), whom[:])
	return c.ethernet(everybody, c.own, uint16(header.ARPProtocolNumber), a)
}

// fragmentFrame is a piece of a packet that is never whole, or overlaps another, or
// ends beyond 64 KiB.
func (c *cable) fragmentFrame() []byte {
	off := uint16(mrand.IntN(1 << 13))
	if mrand.IntN(8) > 0 {
		off |= 1 << 13 // more follow
	}
	proto := []uint8{1, 6, 17}[mrand.IntN(3)]
	return c.ip(c.address, c.anywhere(), proto, off, uint16(mrand.IntN(4096)), random(8*(1+mrand.IntN(180))))
}

func (c *cable) spoofedFrame() []byte {
	b := c.udp(somewhere(), c.anywhere(), anyPort(), portAmpli, random(64))
	if mrand.IntN(2) == 0 {
		b = c.tcp(somewhere(), c.anywhere(), header.TCPFields{SrcPort: anyPort(), DstPort: portHose, SeqNum: mrand.Uint32(), Flags: header.TCPFlagSyn, WindowSize: 65535}, nil)
	}
	copy(b[6:12], random(6))
	if mrand.IntN(4) == 0 {
		copy(b[:6], random(6))
	}
	return b
}

func (c *cable) ipv6Frame() []byte {
	h := header.IPv6(make([]byte, header.IPv6MinimumSize))
	payload := random(8 + mrand.IntN(200))
	dst := random(16)
	if mrand.IntN(2) == 0 {
		copy(dst, []byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	}
	h.Encode(&header.IPv6Fields{PayloadLength: uint16(len(payload)), TransportProtocol: tcpip.TransportProtocolNumber([]int{6, 17, 58, 0, 43, 44}[mrand.IntN(6)]), HopLimit: 255,
		SrcAddr: tcpip.AddrFrom16Slice(random(16)), DstAddr: tcpip.AddrFrom16Slice(dst)})
	payload[0] = byte(133 + mrand.IntN(5)) // router and neighbour discovery
	return c.ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, c.own, uint16(header.IPv6ProtocolNumber), h, payload)
}

func (c *cable) malformedFrame() []byte {
	var b []byte
	switch mrand.IntN(3) {
	case 0:
		b = c.ethernet(c.gateway, c.own, []uint16{0x0800, 0x0806, 0x86dd, 0x8100, uint16(mrand.Uint32())}[mrand.IntN(5)], random(mrand.IntN(1500)))
	case 1:
		b = c.synFrame()
	case 2:
		b = c.udpFrame()
	}
	for range 1 + mrand.IntN(8) {
		b[12+mrand.IntN(len(b)-12)] = byte(mrand.Uint32())
	}
	return b[:14+mrand.IntN(len(b)-13)]
}

func (c *cable) oversizedFrame() []byte {
	size := 1500 + mrand.IntN(64000-1500)
	if mrand.IntN(2) == 0 {
		return c.ip(c.address, c.outside, 17, 0, 0, random(size))
	}
	return c.udp(c.address, c.outside, anyPort(), portAmpli, random(size))
}

package usernet_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Whatever frames a guest sends, its gateway answers the next one as before, and what it
// holds stays within its bounds. Frames that could go further than the gateway and its
// resolver are turned to these.
func FuzzFrames(f *testing.F) {
	n, cable := inProcess(f, resolver(f, func(c net.Conn) { _ = c.Close() }))
	p := &probe{mac: [6]byte{2, 1, 2, 3, 4, 5}, at: netip.MustParseAddr("10.0.2.15"), port: 5000}
	for _, frame := range [][]byte{p.whoHas(), p.question(), p.segment(header.TCPFlagSyn, 1), p.segment(header.TCPFlagAck|header.TCPFlagFin, 9),
		p.ip(1, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}), p.ethernet(make([]byte, 6), 0x86dd, make([]byte, 40))} {
		f.Add(frame, frame)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		for _, frame := range [][]byte{first, second} {
			_ = cable.SetWriteDeadline(time.Now().Add(20 * time.Second))
			if _, err := cable.Write(stayHere(frame)); err != nil && len(frame) > 0 && len(frame) < 64<<10 {
				t.Fatal(err)
			}
		}
		q := &probe{mac: p.mac, at: p.at}
		answered(t, cable, q)
		if n.Flows() > 2*1024 {
			t.Errorf("%d flows", n.Flows())
		}
	})
}

// stayHere turns an IPv4 packet to the gateway or its resolver.
func stayHere(frame []byte) []byte {
	frame = append([]byte(nil), frame...)
	if len(frame) < 14+header.IPv4MinimumSize || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return frame
	}
	ip := header.IPv4(frame[14:])
	to := gatewayIP
	if ip[19]%2 == 1 {
		to = dnsIP
	}
	copy(ip[16:], to.AsSlice())
	ip[0] = 4<<4 | ip[0]&15
	if length := int(ip.HeaderLength()); length >= header.IPv4MinimumSize && length <= len(ip) {
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
	}
	return frame
}

// answered asks for the gateway's MAC until it is told.
func answered(t *testing.T, cable *os.File, p *probe) {
	t.Helper()
	buf := make([]byte, 64<<10)
	for end := time.Now().Add(20 * time.Second); !p.arp; {
		if _, err := cable.Write(p.whoHas()); err != nil {
			t.Fatal(err)
		}
		_ = cable.SetReadDeadline(time.Now().Add(time.Second))
		for !p.arp {
			n, err := cable.Read(buf)
			if err != nil {
				break
			}
			p.hear(buf[:n])
		}
		if time.Now().After(end) {
			t.Fatal("the gateway doesn't answer")
		}
	}
}

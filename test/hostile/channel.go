package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/link"
)

// channel is the port on which the host expects the agent.
type channel struct {
	port   port
	socket bool // it is a connection of a vsock, not a virtio-serial port
	waits  int  // descriptor on which the host's connections wait, where it is
}

// port is a device, or a connection to a host's shim.
type port interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

func (c *channel) attacks() []attack {
	all := []attack{
		{"agent alone", c.leaveAgent},
		{"nobody reads", c.silent},
		{"noise", c.raw(noise)},
		{"torn frames", c.raw(torn)},
		{"new epochs", c.raw(newEpochs)},
		{"forged frames", c.session(forged)},
		{"opened streams", c.session(opens)},
		{"endless credit", c.session(credit)},
		{"agent: silence", c.agent(liesSilent)},
		{"agent: huge answers", c.agent(liesHuge)},
		{"agent: wrong answers", c.agent(liesWrong)},
		{"agent: endless output", c.agent(liesEndless)},
		{"agent: late bytes", c.agent(liesSlow)},
		{"agent: resets", c.agent(liesReset)},
	}
	if c.socket {
		all = append(all, attack{"calls of the host", callHost}, attack{"connection cut", c.cut})
	}
	return all
}

// leaveAgent leaves the channel to the agent, once: it can't come back.
func (c *channel) leaveAgent(until time.Time, n *atomic.Int64) error {
	n.Add(1)
	if c.port == nil {
		time.Sleep(time.Until(until))
		return c.take()
	}
	return nil
}

// take ends the agent and whoever would start it again, and takes its port.
func (c *channel) take() error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_ = unix.Kill(-1, unix.SIGKILL) // all but this process
		var err error
		if c.socket {
			c.port, err = c.accept(end)
		} else {
			c.port, err = openPort()
		}
		if c.port != nil {
			return nil
		}
		if time.Now().After(end) {
			return errors.Join(errors.New("the agent's port isn't to be had"), err)
		}
	}
}

// openPort opens the virtio-serial port; there may be none yet.
func openPort() (port, error) {
	ports, err := os.ReadDir("/sys/class/virtio-ports")
	for _, p := range ports {
		name, _ := os.ReadFile("/sys/class/virtio-ports/" + p.Name() + "/name")
		if strings.TrimSpace(string(name)) == "banger.agent" {
			f, err := os.OpenFile("/dev/"+p.Name(), os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			return f, nil
		}
	}
	return nil, err
}

// silent reads nothing.
func (c *channel) silent(until time.Time, n *atomic.Int64) error {
	time.Sleep(time.Until(until))
	n.Add(1)
	return nil
}

// raw writes what a function makes, and reads what comes, or not.
func (c *channel) raw(more func() []byte) func(time.Time, *atomic.Int64) error {
	return func(until time.Time, n *atomic.Int64) error {
		if c.port == nil {
			return errors.New("no port")
		}
		stop := c.drain()
		defer stop()
		for time.Now().Before(until) {
			k, err := c.write(more(), until)
			n.Add(int64(k))
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// write writes until the host has taken all, or until then.
func (c *channel) write(b []byte, until time.Time) (int, error) {
	_ = c.port.SetWriteDeadline(until)
	n, err := c.port.Write(b)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = nil
	case c.socket && err != nil: // the host comes again
		_ = c.port.Close()
		c.port = nil
		err = c.take()
	}
	return n, err
}

// drain reads the port until it is stopped.
func (c *channel) drain() (stop func()) {
	over, done, port := make(chan struct{}), make(chan struct{}), c.port
	go func() {
		defer close(done)
		for b := make([]byte, 64<<10); ; {
			select {
			case <-over:
				return
			default:
			}
			_ = port.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if _, err := port.Read(b); err != nil {
				time.Sleep(5 * time.Millisecond)
			}
		}
	}()
	return func() { close(over); <-done }
}

// frame encodes one of the link's frames, written anew from its description.
func frame(kind byte, length int, stream, seq uint32, tag uint64, payload []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	b := []byte{0xb4, 'n', 'g', 0xa7, kind, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint64(b, tag)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(payload, table))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, table))
	return append(b, payload...)
}

func noise() []byte {
	b := random(32 << 10)
	for range 100 { // what looks like a beginning
		copy(b[mrand.IntN(len(b)-8):], []byte{0xb4, 'n', 'g', 0xa7})
	}
	return b
}

func torn() []byte {
	b := frame(byte(mrand.IntN(8)), mrand.IntN(1<<16), mrand.Uint32(), mrand.Uint32(), mrand.Uint64(), random(mrand.IntN(2000)))
	return b[:1+mrand.IntN(len(b))]
}

func hello(mine, theirs uint64) []byte {
	b := []byte{1, 2, 1, 0, 0, 0, 0, 0} // versions from, to, and that it takes streams
	b = binary.BigEndian.AppendUint64(b, mine)
	return frame(1, 24, 0, 0, 0, binary.BigEndian.AppendUint64(b, theirs))
}

// newEpochs is replaced each time, which the host answers with a hello and zeros.
func newEpochs() (b []byte) {
	for range 64 {
		b = append(b, hello(mrand.Uint64(), mrand.Uint64())...)
	}
	return b
}

// peer is a session that was opened by the rules.
type peer struct {
	tag uint64
	seq uint32
}

func (p *peer) frame(kind byte, stream uint32, payload []byte) []byte {
	b := frame(kind, len(payload), stream, p.seq, p.tag, payload)
	p.seq++
	return b
}

// session opens a session and then breaks its rules, again and again: each time the
// host ends it and begins another.
func (c *channel) session(more func(*peer) []byte) func(time.Time, *atomic.Int64) error {
	return func(until time.Time, n *atomic.Int64) error {
		if c.port == nil {
			return errors.New("no port")
		}
		for time.Now().Before(until) {
			// A busy host may need longer than an attack has.
			p, err := c.handshake(time.Now().Add(20 * time.Second))
			if err != nil {
				return err
			}
			if p == nil {
				continue
			}
			for range 20 {
				if _, err := c.write(more(p), time.Now().Add(20*time.Second)); err != nil {
					return err
				}
				n.Add(1)
			}
		}
		return nil
	}
}

// handshake says hello until it is echoed. It returns nil when time is up.
func (c *channel) handshake(until time.Time) (*peer, error) {
	mine, theirs := mrand.Uint64()|1, uint64(0)
	var got []byte
	for time.Now().Before(until) {
		if _, err := c.write(append(make([]byte, 32<<10), hello(mine, theirs)...), until); err != nil {
			return nil, err
		}
		b := make([]byte, 64<<10)
		_ = c.port.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		k, err := c.port.Read(b)
		if err != nil || k == 0 {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		got = append(got[max(0, len(got)-100):], b[:k]...)
		for at := 0; ; at++ {
			i := bytes.Index(got[at:], []byte{0xb4, 'n', 'g', 0xa7, 1})
			if i < 0 || len(got) < at+i+56 {
				break
			}
			at += i
			theirs = binary.BigEndian.Uint64(got[at+40:])
			if binary.BigEndian.Uint64(got[at+48:]) == mine {
				if _, err := c.write(hello(mine, theirs), until); err != nil {
					return nil, err
				}
				var both [16]byte
				binary.BigEndian.PutUint64(both[:], theirs)
				binary.BigEndian.PutUint64(both[8:], mine)
				sum := sha256.Sum256(both[:])
				return &peer{tag: binary.BigEndian.Uint64(sum[:])}, nil
			}
		}
	}
	return nil, nil
}

func forged(p *peer) []byte {
	b := p.frame(byte(mrand.IntN(9)), uint32(mrand.IntN(40)), random(mrand.IntN(32<<10)))
	if mrand.IntN(4) == 0 {
		p.seq += mrand.Uint32()
	}
	return b
}

// opens opens streams that no host takes.
func opens(p *peer) (b []byte) {
	for range 500 {
		b = append(b, p.frame(2, 1<<31|(p.seq+1), []byte{byte(mrand.IntN(4))})...)
	}
	return b
}

// credit gives more than there is, for streams that are and aren't.
func credit(p *peer) (b []byte) {
	for id := range uint32(64) {
		b = append(b, p.frame(4, id, binary.BigEndian.AppendUint32(nil, mrand.Uint32()))...)
		b = append(b, p.frame(3, id, random(100))...)
	}
	return b
}

// agent keeps the link's rules and lies in what it says above it.
func (c *channel) agent(lie func(net.Conn, guest.Request, time.Time)) func(time.Time, *atomic.Int64) error {
	return func(until time.Time, n *atomic.Int64) error {
		if c.port == nil {
			return errors.New("no port")
		}
		time.Sleep(50 * time.Millisecond) // for the last mux to let go
		if err := c.port.SetDeadline(time.Time{}); err != nil {
			return err
		}
		mux := link.New(link.Port(lent{c.port}), link.Guest)
		timer := time.AfterFunc(time.Until(until), func() { _ = mux.Close() })
		defer timer.Stop()
		for {
			s, err := mux.Accept()
			if err != nil {
				if time.Now().Before(until) {
					return err
				}
				return nil
			}
			n.Add(1)
			go func() {
				defer s.Close()
				req, err := guest.ReadRequest(s)
				if err == nil {
					lie(s, req, until)
				}
			}()
		}
	}
}

// lent is the port without its end: the next attack has it then.
type lent struct{ port }

// Close ends what waits for the port.
func (l lent) Close() error { return l.SetDeadline(time.Unix(1, 0)) }

func respond(s net.Conn, raw []byte) bool {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(raw)))
	_, err := s.Write(append(b, raw...))
	return err == nil
}

func liesSilent(s net.Conn, _ guest.Request, until time.Time) { time.Sleep(time.Until(until)) }

func liesHuge(s net.Conn, req guest.Request, until time.Time) {
	text := strings.Repeat(`\u001b[2J`, 20<<10)
	body := fmt.Sprintf(`{"agent":"%s","init":"%s","boot_id":"%s"}`, text[:60<<10], text[:60<<10], text[:60<<10])
	if req.Op == guest.OpSessions {
		body = "[" + strings.TrimSuffix(strings.Repeat(`{"spec":{"argv":["",""]}},`, 9000), ",") + "]"
	}
	respond(s, fmt.Appendf(nil, `{"version":1,"body":%s}`, body))
	liesEndless(s, req, until)
}

func liesWrong(s net.Conn, req guest.Request, until time.Time) {
	switch mrand.IntN(6) {
	case 0: // more than a message may have
		_, _ = s.Write([]byte{0xff, 0xff, 0xff, 0xff})
		_, _ = s.Write(random(1000))
	case 1:
		respond(s, random(1000))
	case 2:
		respond(s, []byte(strings.Repeat("[", 200<<10)))
	case 3:
		respond(s, []byte(`{"version":-1}`))
	case 4:
		respond(s, fmt.Appendf(nil, `{"version":1,"error":{"code":"internal","message":%q}}`, strings.Repeat("\x1b[2J", 5000)))
	case 5:
		h, _ := json.Marshal(guest.Health{Agent: "x", Configured: true, Time: time.Unix(mrand.Int64N(1<<40), 0), UptimeMS: -1, Sessions: -1, Streams: 1 << 40})
		respond(s, fmt.Appendf(nil, `{"version":1,"body":%s}`, h))
		for _, kind := range []string{"poweroff\x00", "no such thing", strings.Repeat("x", 10000)} {
			n, _ := json.Marshal(guest.Notice{Kind: kind, Text: kind})
			_, _ = s.Write(guest.AppendFrame(nil, guest.Frame{Type: guest.FrameNotice, Offset: mrand.Int64(), Data: n}))
		}
	}
}

// liesEndless gives commands output that never ends, and offsets that can't be.
func liesEndless(s net.Conn, req guest.Request, until time.Time) {
	at, _ := json.Marshal(guest.Attached{PID: 1, Stdout: 0, TakesStdin: true})
	if req.Op != guest.OpExec {
		at = []byte("{}")
	}
	if !respond(s, fmt.Appendf(nil, `{"version":1,"body":%s}`, at)) {
		return
	}
	b := random(guest.BulkData)
	for at := int64(0); time.Now().Before(until); at += int64(len(b)) {
		f := guest.Frame{Type: guest.FrameStdout, Offset: at, Data: b}
		if req.Op == guest.OpWatch {
			f = guest.Frame{Type: guest.FrameNotice, Offset: at, Data: []byte(`{"kind":"x"}`)}
		}
		_ = s.SetWriteDeadline(until)
		if _, err := s.Write(guest.AppendFrame(nil, f)); err != nil {
			return
		}
	}
}

func liesSlow(s net.Conn, _ guest.Request, until time.Time) {
	b := append([]byte{0, 1, 0, 0}, []byte(strings.Repeat(" ", 1<<16))...)
	for i := 0; time.Now().Before(until) && i < len(b); i++ {
		if _, err := s.Write(b[i : i+1]); err != nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func liesReset(s net.Conn, _ guest.Request, _ time.Time) {
	if mrand.IntN(2) == 0 {
		_, _ = io.CopyN(s, bytes.NewReader(random(1000)), int64(mrand.IntN(1000)))
	}
	if r, ok := s.(*link.Stream); ok {
		r.Reset()
	}
}

package link

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Stream is one two-way stream: a net.Conn with half-close. All fields are
// guarded by the Mux's lock.
type Stream struct {
	m      *Mux
	id     uint32 // 0: silent
	life   life
	queued [lanes]bool // in which lanes it stands
	inbound
	outbound
}

// life says which sides know a stream.
type life uint8

const (
	silent   life = iota // opened here; the peer is told with the first bytes
	open                 // both know it
	aborting             // a RESET is to be sent instead of all else
	gone                 // it isn't in the session any more
)

// inbound is what the peer sends.
type inbound struct {
	class    class
	closed   bool // the application is done with the stream, and reads no more
	in       queue
	inEnd    error // what Read returns after in: io.EOF after FIN, else why it broke
	limit    int   // the window, in bytes
	room     int   // bytes the peer may still send
	unpaid   int   // bytes read and not yet given back as credit
	readable sync.Cond
	readBy   deadline
}

// outbound is what this side sends.
type outbound struct {
	speech   speech
	out      queue
	outEnd   error // what Write returns: closed, reset
	window   int   // bytes we may still send
	writable sync.Cond
	writeBy  deadline
}

// speech is how far the outbound direction is.
type speech uint8

const (
	speaking speech = iota
	ending          // no more comes; FIN is due after what was written
	ended           // FIN was sent
)

// newStream makes a stream of an id that both sides know, or a silent one of none.
func (m *Mux) newStream(id uint32, c class) *Stream {
	window := Window
	if m.hs.version >= 2 {
		window = firstWindow
	}
	s := &Stream{m: m, id: id, inbound: inbound{class: c, limit: window, room: window}, outbound: outbound{window: window}}
	s.readable.L, s.writable.L = &m.mu, &m.mu
	if id == 0 {
		m.session.silent[s] = true
	} else {
		s.life = open
		m.session.streams[id] = s
	}
	m.session.open[c]++
	return s
}

// Read returns bytes in order. After the last it returns io.EOF if the peer has called
// CloseWrite, else why the stream broke: ErrReset or ErrClosed.
func (s *Stream) Read(p []byte) (int, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case s.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case s.in.len() > 0 || len(p) == 0:
			n := 0
			for n < len(p) && s.in.len() > 0 {
				k := copy(p[n:], s.in.first(len(p)-n))
				s.in.drop(k)
				n += k
			}
			s.pay(n)
			return n, nil
		case s.inEnd != nil:
			return 0, s.inEnd
		}
		s.readable.Wait()
	}
}

// pay gives read bytes back as credit, half of the window at a time, so that a sender never
// waits if the reader is fast enough. What is sent on the stream brings some along: in a
// guest each write to the port costs as much as many bytes.
func (s *Stream) pay(n int) {
	s.unpaid += n
	if s.unpaid >= s.limit/2 && s.inEnd == nil {
		s.m.push(s, laneUrgent)
	}
}

// Write takes bytes to be sent in order. It blocks while the peer doesn't read.
// Bytes it took may still be lost when the session breaks.
func (s *Stream) Write(p []byte) (int, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for n := 0; ; {
		switch {
		case s.outEnd != nil:
			return n, s.outEnd
		case s.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case len(p) == 0:
			return n, nil
		}
		if k := min(len(p), sendBuffer-s.out.len()); k > 0 {
			s.out.push(p[:k])
			p = p[k:]
			n += k
			s.pushData()
			continue
		}
		s.writable.Wait()
	}
}

// CloseWrite says that no more comes, after what was written.
func (s *Stream) CloseWrite() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.outEnd != nil {
		return s.outEnd
	}
	s.closeWrite()
	return nil
}

func (s *Stream) closeWrite() {
	s.outEnd = net.ErrClosed
	if s.speech == speaking {
		s.speech = ending
	}
	s.writable.Broadcast()
	s.pushData()
}

// Close ends both directions at once for this side. What was written is still
// sent; what wasn't read is dropped.
func (s *Stream) Close() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.close()
	if s.outEnd == nil {
		s.closeWrite()
	}
	if s.life == silent && s.out.len() == 0 {
		s.forget() // nothing was ever sent on it
	}
	s.pushData()
	return nil
}

// Reset ends the stream and drops what was written and not yet sent.
func (s *Stream) Reset() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if !s.closed {
		s.close()
	}
	s.outEnd = net.ErrClosed
	s.writable.Broadcast()
	s.abort()
}

func (s *Stream) close() {
	s.closed = true
	s.in.clear()
	s.readable.Broadcast()
	s.readBy.set(time.Time{}, &s.readable)
	s.writeBy.set(time.Time{}, &s.writable)
}

// abort sends a RESET instead of all that is to be sent.
func (s *Stream) abort() {
	s.out.clear()
	switch s.life {
	case silent:
		s.forget()
	case open:
		s.life = aborting
	case aborting, gone:
	}
	s.m.push(s, laneUrgent)
}

// pushData puts the stream into its lane, if it has something for fillData.
func (s *Stream) pushData() {
	switch {
	case s.life == aborting || s.life == gone:
	case s.out.len() > 0 && s.window == 0:
	case s.out.len() == 0 && s.speech != ending && !s.closed:
	case s.class == classControl:
		s.m.push(s, laneControl)
	case s.out.len() <= littleSize && !s.queued[laneBulk]:
		s.m.push(s, laneLittle)
	case !s.queued[laneLittle]:
		s.m.push(s, laneBulk)
	}
}

// fillUrgent makes frames of CREDIT and of an abort's RESET. A stream whose reader is fast
// enough gets a larger window, while there is room for it.
func (s *Stream) fillUrgent(b []byte) []byte {
	ses := &s.m.session
	switch {
	case s.life == gone:
		return b
	case s.life == aborting:
		reason := byte(reasonProtocol)
		if s.closed {
			reason = reasonClosed
		}
		s.forget()
		return ses.frame(b, kindReset, s.id, []byte{reason})
	case s.unpaid == 0 || s.inEnd != nil || s.closed:
		return b
	}
	grow := min(s.limit, max(grownWindow-s.limit, 0), ses.room)
	ses.room -= grow
	s.limit += grow
	credit := s.unpaid + grow
	s.room += credit
	s.unpaid = 0
	return ses.frame(b, kindCredit, s.id, binary.BigEndian.AppendUint32(nil, uint32(credit)))
}

// fillData makes a frame of DATA of up to n bytes, with OPEN before the first, and FIN after
// the last. A stream with more to send waits for its next turn.
func (s *Stream) fillData(b []byte, n int) []byte {
	if s.life == gone || s.life == aborting {
		return b
	}
	if s.life == silent {
		b = s.announce(b)
	}
	if s.unpaid >= s.limit/8 {
		b = s.fillUrgent(b)
	}
	if n = min(n, s.window); n > 0 && s.out.len() > 0 {
		p := s.out.first(n)
		b = s.m.session.frame(b, kindData, s.id, p)
		s.window -= len(p)
		s.out.drop(len(p))
		s.writable.Broadcast()
	}
	if s.out.len() > 0 {
		s.pushData()
		return b
	}
	if s.speech == ending {
		s.speech = ended
		b = s.m.session.frame(b, kindFin, s.id, nil)
	}
	if s.closed && s.inEnd == nil {
		// The peer may still be sending: tell it that nobody reads.
		b = s.m.session.frame(b, kindReset, s.id, []byte{reasonClosed})
		s.forget()
	}
	s.forgetIfDone()
	return b
}

// announce frames OPEN.
func (s *Stream) announce(b []byte) []byte {
	ses, own := &s.m.session, s.m.role.side()
	delete(ses.silent, s)
	ses.lastID[own]++
	s.id, s.life = ses.lastID[own]|uint32(own)<<31, open
	ses.streams[s.id] = s
	return ses.frame(b, kindOpen, s.id, []byte{byte(s.class)})
}

// handle takes a frame of this stream.
func (s *Stream) handle(f frame) {
	switch f.kind {
	case kindData:
		s.gotData(f.payload)
	case kindCredit:
		if len(f.payload) != 4 || int64(s.window)+int64(binary.BigEndian.Uint32(f.payload)) > Window {
			s.violated("more credit than there is")
			return
		}
		s.window += int(binary.BigEndian.Uint32(f.payload))
		s.pushData()
	case kindFin:
		if s.inEnd == nil {
			s.inEnd = io.EOF
		}
		s.readable.Broadcast()
		s.forgetIfDone()
	case kindReset:
		err := ErrClosed
		if len(f.payload) > 0 && f.payload[0] == reasonRefused {
			err = ErrTooMany
		} else if len(f.payload) > 0 && f.payload[0] == reasonProtocol {
			err = fmt.Errorf("%w: this side broke the protocol", ErrReset)
		}
		s.fail(err)
		s.forget()
	default:
		s.violated(fmt.Sprintf("a frame of kind %d", f.kind))
	}
}

func (s *Stream) gotData(p []byte) {
	switch {
	case s.inEnd != nil:
		s.violated("bytes after its end")
	case len(p) > s.room:
		s.violated("more bytes than its window")
	case s.closed:
		s.room -= len(p) // nobody reads; the RESET that says so is due
	default:
		s.room -= len(p)
		s.in.push(p)
		s.readable.Signal()
	}
}

// violated ends a stream whose peer breaks the protocol.
func (s *Stream) violated(what string) {
	s.fail(fmt.Errorf("%w: the other side sent %s", ErrReset, what))
	s.abort()
}

// fail ends both directions with err. Bytes that arrived can still be read, and an io.EOF
// stays an io.EOF.
func (s *Stream) fail(err error) {
	if s.inEnd == nil {
		s.inEnd = err
	}
	if s.outEnd == nil {
		s.outEnd = err
	}
	s.out.clear()
	s.readable.Broadcast()
	s.writable.Broadcast()
}

func (s *Stream) forgetIfDone() {
	if s.speech == ended && s.inEnd != nil {
		s.forget()
	}
}

// forget takes the stream out of its session, if it is of the present one.
func (s *Stream) forget() {
	ses := &s.m.session
	if s.life != gone && (ses.silent[s] || ses.streams[s.id] == s) {
		ses.open[s.class]--
		if s.m.hs.version >= 2 {
			ses.room += s.limit - firstWindow
		}
	}
	s.life = gone
	delete(ses.silent, s)
	if ses.streams[s.id] == s {
		delete(ses.streams, s.id)
	}
}

// LocalAddr and RemoteAddr name the link; streams have no addresses.
func (s *Stream) LocalAddr() net.Addr { return addr{} }

// RemoteAddr is LocalAddr.
func (s *Stream) RemoteAddr() net.Addr { return addr{} }

// SetDeadline bounds Read and Write, as net.Conn says.
func (s *Stream) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t) // the second one reports the same
	return s.SetWriteDeadline(t)
}

// SetReadDeadline bounds Read.
func (s *Stream) SetReadDeadline(t time.Time) error {
	return s.setDeadline(&s.readBy, t, &s.readable)
}

// SetWriteDeadline bounds Write.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(&s.writeBy, t, &s.writable)
}

func (s *Stream) setDeadline(d *deadline, t time.Time, c *sync.Cond) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	d.set(t, c)
	return nil
}

// deadline wakes a condition's waiters when it passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set needs c.L.
func (d *deadline) set(at time.Time, c *sync.Cond) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if wait := time.Until(at); !at.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			c.L.Lock()
			defer c.L.Unlock()
			c.Broadcast()
		})
	}
	c.Broadcast()
}

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
	m  *Mux
	id uint32 // 0: the peer hasn't heard of it

	in       queue
	inEnd    error // what Read returns after in: io.EOF after FIN, else why it broke
	room     int   // bytes the peer may still send
	unpaid   int   // bytes read and not yet given back as credit
	readable sync.Cond
	readBy   deadline

	out      queue
	outEnd   error // what Write returns: closed, reset
	window   int   // bytes we may still send
	writable sync.Cond
	writeBy  deadline

	flags
}

// flags say what is due and what is over.
type flags struct {
	finDue, abortDue      bool
	finSent, closed, gone bool // gone: no longer in the session
	inUrgent, inBulk      bool // stands in the queue of that name
}

// newStream makes a stream of an id that both sides know, or a silent one of none.
func (m *Mux) newStream(id uint32) *Stream {
	s := &Stream{m: m, id: id, room: Window, window: Window}
	s.readable.L, s.writable.L = &m.mu, &m.mu
	if id == 0 {
		m.session.silent[s] = true
	} else {
		m.session.streams[id] = s
	}
	return s
}

// Read returns bytes in order. After the last it returns io.EOF when the peer
// has half-closed, and else why the stream broke: ErrReset or ErrClosed.
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
			n := copy(p, s.in.first(len(p)))
			s.in.drop(n)
			s.pay(n)
			return n, nil
		case s.inEnd != nil:
			return 0, s.inEnd
		}
		s.readable.Wait()
	}
}

// pay gives read bytes back as credit, in quarters of the window: often enough
// that a sender never waits for a reader that keeps up.
func (s *Stream) pay(n int) {
	s.unpaid += n
	if s.unpaid >= Window/4 && s.inEnd == nil {
		s.m.pushUrgent(s)
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
			s.m.pushBulk(s)
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
	s.outEnd, s.finDue = net.ErrClosed, true
	s.writable.Broadcast()
	s.m.pushBulk(s)
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
	if s.id == 0 && s.out.len() == 0 {
		s.forget() // nothing was ever said on it
	}
	s.m.pushBulk(s)
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
	s.in = queue{}
	s.readable.Broadcast()
	s.readBy.set(time.Time{}, &s.readable)
	s.writeBy.set(time.Time{}, &s.writable)
}

// abort has a RESET sent in place of all that is due.
func (s *Stream) abort() {
	s.out, s.abortDue = queue{}, true
	if s.id == 0 {
		s.forget()
	}
	s.m.pushUrgent(s)
}

// sendable says whether fillBulk has something to frame.
func (s *Stream) sendable() bool {
	if s.out.len() > 0 {
		return s.window > 0
	}
	return s.finDue || s.closed && !s.abortDue
}

// fillUrgent frames CREDIT and an abortive RESET.
func (s *Stream) fillUrgent(b []byte) []byte {
	s.inUrgent = false
	if s.gone {
		return b
	}
	if s.abortDue {
		reason := byte(reasonProtocol)
		if s.closed {
			reason = reasonClosed
		}
		s.forget()
		return s.m.session.frame(b, kindReset, s.id, []byte{reason})
	}
	if s.unpaid > 0 && s.inEnd == nil && !s.closed {
		b = s.m.session.frame(b, kindCredit, s.id, binary.BigEndian.AppendUint32(nil, uint32(s.unpaid)))
		s.room += s.unpaid
		s.unpaid = 0
	}
	return b
}

// fillBulk frames one DATA, after OPEN where that is the first, and the end of
// the stream when that was the last. A stream with more to send goes to the end
// of the queue.
func (s *Stream) fillBulk(b []byte) []byte {
	s.inBulk = false
	if s.gone || s.abortDue {
		return b
	}
	if s.id == 0 {
		b = s.announce(b)
	}
	if n := min(s.out.len(), s.window, maxPayload); n > 0 {
		b = s.m.session.frame(b, kindData, s.id, s.out.first(n))
		s.out.drop(n)
		s.window -= n
		s.writable.Broadcast()
	}
	if s.out.len() > 0 {
		s.m.pushBulk(s)
		return b
	}
	if s.finDue {
		s.finDue, s.finSent = false, true
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
	ses := &s.m.session
	delete(ses.silent, s)
	ses.lastID++
	s.id = ses.lastID
	ses.streams[s.id] = s
	return ses.frame(b, kindOpen, s.id, nil)
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
		s.m.pushBulk(s)
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

// violated cuts off a stream whose peer lies about it.
func (s *Stream) violated(what string) {
	s.fail(fmt.Errorf("%w: the other side sent %s", ErrReset, what))
	s.abort()
}

// fail ends both directions with err. Bytes that arrived can still be read, and
// an end that was seen stays one.
func (s *Stream) fail(err error) {
	if s.inEnd == nil {
		s.inEnd = err
	}
	if s.outEnd == nil {
		s.outEnd = err
	}
	s.out = queue{}
	s.readable.Broadcast()
	s.writable.Broadcast()
}

func (s *Stream) forgetIfDone() {
	if s.finSent && s.inEnd != nil {
		s.forget()
	}
}

// forget takes the stream out of its session, if it is of the present one.
func (s *Stream) forget() {
	s.gone = true
	delete(s.m.session.silent, s)
	if s.m.session.streams[s.id] == s {
		delete(s.m.session.streams, s.id)
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

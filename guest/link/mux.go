package link

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
)

// Role is the side of the pipe: only the host opens streams, only the guest
// accepts them.
type Role bool

// The two sides.
const (
	Host  Role = true
	Guest Role = false
)

// Mux is one side of the link. In the guest it is a net.Listener.
type Mux struct {
	rw   io.ReadWriteCloser
	role Role
	done chan struct{} // closed when the Mux has ended

	mu       sync.Mutex
	due      sync.Cond     // the writer has something to do, or err is set
	accepted sync.Cond     // incoming has a stream, or err is set
	up       chan struct{} // closed while the peer is known, see settle
	settled  bool          // up is closed
	err      error         // why the Mux ended
	hs       handshake
	session  session
	incoming []*Stream // opened by the host, not yet accepted
}

// handshake is what has been said and is to be said about the epochs.
type handshake struct {
	mine, peer uint64 // peer is 0 until heard of
	mismatch   error  // the peer speaks no version we do
	refused    error  // likewise, and it is no stale HELLO: it knows our epoch
	helloDue   bool
	zerosDue   bool
}

// session is what both sides share after the handshake; a new one starts empty.
type session struct {
	established bool
	tag         uint64
	sent, got   uint32 // frames, the next one's sequence number
	streams     map[uint32]*Stream
	silent      map[*Stream]bool // of the host, without an id: nothing was said on them yet
	lastID      uint32           // the newest id opened by the host
	urgent      []*Stream        // have CREDIT or RESET due
	bulk        []*Stream        // have DATA, FIN or the RESET after it due, in turn
	refused     []uint32         // OPENs to be answered by RESET
}

func newSession(tag uint64) session {
	return session{tag: tag, streams: map[uint32]*Stream{}, silent: map[*Stream]bool{}}
}

// New starts the link over rw, which it owns from now on: closing the Mux
// closes rw, and an error of rw ends the Mux.
func New(rw io.ReadWriteCloser, role Role) *Mux {
	m := &Mux{rw: rw, role: role, done: make(chan struct{}), up: make(chan struct{})}
	m.due.L, m.accepted.L = &m.mu, &m.mu
	m.hs = handshake{mine: newEpoch(), helloDue: true, zerosDue: true}
	m.session = newSession(0)
	go m.read()
	go m.write()
	return m
}

// Open opens a stream, waiting for the peer until ctx ends. The peer hears of it
// with the first bytes, so that a guest wakes once for both; a stream the guest
// has no room for ends with ErrTooMany then.
func (m *Mux) Open(ctx context.Context) (*Stream, error) {
	if m.role != Host {
		return nil, fmt.Errorf("the guest's side of the link can't open streams")
	}
	for {
		m.mu.Lock()
		if m.session.established || m.err != nil || m.hs.refused != nil {
			defer m.mu.Unlock()
			return m.open()
		}
		up := m.up
		m.mu.Unlock()
		select {
		case <-up:
		case <-m.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("the guest's agent has not answered on its channel: %w", ctx.Err())
		}
	}
}

func (m *Mux) open() (*Stream, error) {
	switch ses := &m.session; {
	case m.err != nil:
		return nil, m.err
	case m.hs.refused != nil:
		return nil, m.hs.refused
	case len(ses.streams)+len(ses.silent) >= MaxStreams:
		return nil, ErrTooMany
	case ses.lastID >= 1<<32-1-MaxStreams:
		m.restart(fmt.Errorf("%w: stream ids are used up", ErrReset))
		return nil, ErrReset
	default:
		return m.newStream(0), nil
	}
}

// Accept returns the next stream the host opened. It outlives sessions: an
// error means that the Mux has ended.
func (m *Mux) Accept() (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.incoming) == 0 {
		if m.err != nil {
			return nil, m.err
		}
		m.accepted.Wait()
	}
	s := m.incoming[0]
	m.incoming = m.incoming[1:]
	return s, nil
}

// Addr makes the guest's side a net.Listener.
func (m *Mux) Addr() net.Addr { return addr{} }

// Established reports whether the peer is known to be there.
func (m *Mux) Established() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session.established
}

// Up returns a channel that is closed when the peer is there, or can't be
// talked to: then Open says why at once. Another takes its place when that
// session ends.
func (m *Mux) Up() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up
}

// Done is closed when the Mux has ended; Err then says why.
func (m *Mux) Done() <-chan struct{} { return m.done }

// Err returns why the Mux ended, nil while it hasn't.
func (m *Mux) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Close ends the Mux, all its streams and the pipe. What was written and not
// yet sent is lost.
func (m *Mux) Close() error {
	m.end(net.ErrClosed)
	return nil
}

func (m *Mux) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return
	}
	m.err = err
	m.drop(err)
	m.due.Broadcast()
	m.accepted.Broadcast()
	close(m.done)
	// Unblocks the goroutines below; nothing is left to be told about it.
	_ = m.rw.Close()
}

// read is the only reader of the pipe. It never waits for the writer: what a
// frame calls for is noted and sent in the writer's time.
func (m *Mux) read() {
	sc := newScanner(m.rw)
	for {
		f, err := sc.next()
		if err != nil {
			m.end(fmt.Errorf("channel to the other side ended: %w", err))
			return
		}
		m.mu.Lock()
		m.handle(f)
		m.mu.Unlock()
	}
}

// write is the only writer of the pipe.
func (m *Mux) write() {
	var buf []byte
	for {
		m.mu.Lock()
		for m.err == nil && !m.hasDue() {
			m.due.Wait()
		}
		if m.err != nil {
			m.mu.Unlock()
			return
		}
		buf = m.fill(buf[:0])
		m.mu.Unlock()
		if len(buf) == 0 {
			continue
		}
		if _, err := m.rw.Write(buf); err != nil {
			m.end(fmt.Errorf("channel to the other side ended: %w", err))
			return
		}
	}
}

func (m *Mux) hasDue() bool {
	ses := &m.session
	return m.hs.helloDue || ses.established && len(ses.urgent)+len(ses.bulk)+len(ses.refused) > 0
}

// fill frames what is due: the handshake, then small control frames, then data
// of each stream in turn.
func (m *Mux) fill(b []byte) []byte {
	if m.hs.zerosDue {
		b = append(b, zeros[:]...)
	}
	if m.hs.helloDue {
		b = appendFrame(b, m.hs.frame())
	}
	m.hs.zerosDue, m.hs.helloDue = false, false
	ses := &m.session
	if !ses.established {
		return b
	}
	for _, id := range ses.refused {
		b = ses.frame(b, kindReset, id, []byte{reasonRefused})
	}
	ses.refused = ses.refused[:0]
	for _, s := range ses.urgent {
		b = s.fillUrgent(b)
	}
	ses.urgent = ses.urgent[:0]
	for len(ses.bulk) > 0 && len(b) < batchSize {
		s := ses.bulk[0]
		ses.bulk = ses.bulk[1:]
		b = s.fillBulk(b)
	}
	return b
}

func (ses *session) frame(b []byte, k kind, id uint32, payload []byte) []byte {
	b = appendFrame(b, frame{kind: k, stream: id, seq: ses.sent, tag: ses.tag, payload: payload})
	ses.sent++
	return b
}

func (hs *handshake) frame() frame {
	p := make([]byte, helloSize)
	p[0], p[1] = minVersion, maxVersion
	binary.BigEndian.PutUint64(p[8:], hs.mine)
	binary.BigEndian.PutUint64(p[16:], hs.peer)
	return frame{kind: kindHello, payload: p}
}

// hello takes the peer's HELLO.
func (m *Mux) hello(p []byte) {
	if len(p) < helloSize {
		return
	}
	low, high := p[0], p[1]
	theirs, echo := binary.BigEndian.Uint64(p[8:]), binary.BigEndian.Uint64(p[16:])
	if theirs == 0 {
		return
	}
	if theirs != m.hs.peer {
		m.drop(fmt.Errorf("%w: the other side was replaced", ErrReset))
		m.hs.peer, m.hs.mismatch, m.hs.refused = theirs, nil, nil
		m.hs.helloDue, m.hs.zerosDue = true, true
		m.session.tag = m.tag()
		if low > maxVersion || high < minVersion {
			m.hs.mismatch = fmt.Errorf("the other side speaks versions %d to %d of the channel, this one %d to %d", low, high, minVersion, maxVersion)
		}
	}
	if echo == m.hs.mine {
		m.establish()
	} else {
		m.hs.helloDue = true
	}
	m.due.Signal()
}

// establish notes that the peer knows our epoch.
func (m *Mux) establish() {
	m.hs.refused = m.hs.mismatch
	m.session.established = m.hs.mismatch == nil
	m.settle()
}

// settle ends the waiting for the peer: it is there, or can't be talked to.
func (m *Mux) settle() {
	if !m.settled {
		m.settled = true
		close(m.up)
	}
}

// drop ends the session: its streams fail with err, and what a new one needs is
// clean.
func (m *Mux) drop(err error) {
	all := slices.Collect(maps.Values(m.session.streams))
	for _, s := range slices.AppendSeq(all, maps.Keys(m.session.silent)) {
		s.fail(err)
		s.gone = true
	}
	if m.settled {
		m.settled, m.up = false, make(chan struct{})
	}
	m.incoming = nil
	m.session = newSession(m.tag())
}

// restart ends a session the peer has broken, or that lost a frame, and offers
// another under a new epoch: no frame of the old one can reach it.
func (m *Mux) restart(err error) {
	m.hs.mine = newEpoch()
	m.hs.helloDue, m.hs.zerosDue = true, true
	m.drop(err)
	m.due.Signal()
}

// tag names the session of both epochs.
func (m *Mux) tag() uint64 {
	host, guest := m.hs.mine, m.hs.peer
	if m.role == Guest {
		host, guest = guest, host
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], host)
	binary.BigEndian.PutUint64(b[8:], guest)
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:])
}

func newEpoch() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails, see crypto/rand
		if e := binary.BigEndian.Uint64(b[:]); e != 0 {
			return e
		}
	}
}

// handle takes one intact frame. Nothing in it is believed.
func (m *Mux) handle(f frame) {
	if f.kind == kindHello {
		m.hello(f.payload)
		return
	}
	if m.err != nil || m.hs.peer == 0 || m.hs.mismatch != nil || f.tag != m.session.tag {
		return // of an earlier session
	}
	m.establish() // only who knows our epoch can make its tag
	if f.seq != m.session.got {
		m.restart(fmt.Errorf("%w: frame %d came in place of %d", ErrReset, f.seq, m.session.got))
		return
	}
	m.session.got++
	if f.kind == kindOpen && m.role == Guest {
		m.opened(f)
		return
	}
	s := m.session.streams[f.stream]
	switch {
	case s != nil:
		s.handle(f)
	case f.kind == kindOpen, f.kind < kindHello, f.kind > kindReset, f.stream == 0, f.stream > m.session.lastID:
		m.restart(fmt.Errorf("%w: the other side sent a frame of kind %d for stream %d, which can't be", ErrReset, f.kind, f.stream))
	}
	// What is left are frames that were on their way when we forgot the stream.
}

// opened takes the host's OPEN.
func (m *Mux) opened(f frame) {
	ses := &m.session
	if f.stream <= ses.lastID {
		m.restart(fmt.Errorf("%w: stream %d was opened after %d", ErrReset, f.stream, ses.lastID))
		return
	}
	ses.lastID = f.stream
	if len(ses.streams) < MaxStreams && len(m.incoming) < MaxStreams {
		m.incoming = append(m.incoming, m.newStream(f.stream))
		m.accepted.Signal()
		return
	}
	if len(ses.refused) >= MaxStreams {
		m.restart(fmt.Errorf("%w: the other side opens streams without end", ErrReset))
		return
	}
	ses.refused = append(ses.refused, f.stream)
	m.due.Signal()
}

func (m *Mux) pushUrgent(s *Stream) {
	if !s.inUrgent && !s.gone {
		s.inUrgent = true
		m.session.urgent = append(m.session.urgent, s)
		m.due.Signal()
	}
}

func (m *Mux) pushBulk(s *Stream) {
	if !s.inBulk && !s.gone && s.sendable() {
		s.inBulk = true
		m.session.bulk = append(m.session.bulk, s)
		m.due.Signal()
	}
}

type addr struct{}

func (addr) Network() string { return "link" }
func (addr) String() string  { return "link" }

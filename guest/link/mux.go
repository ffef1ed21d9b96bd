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

// Role is the side of the pipe. The host opens streams; the guest may, too, if the host
// calls Accept.
type Role bool

// The two sides.
const (
	Host  Role = true
	Guest Role = false
)

// Mux is one side of the link, and a net.Listener.
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
	incoming []*Stream // opened by the other side, not yet accepted; at most as many as it may open
}

// handshake is the state of the handshake.
type handshake struct {
	mine, peer uint64 // peer is 0 until heard of
	mismatch   error  // the peer has no version that we have
	refused    error  // likewise, and its HELLO isn't an old one: it echoes our epoch
	version    byte   // the newest that both have
	takes      bool   // this side takes streams that the other one opens
	peerTakes  bool   // the other side takes streams that this one opens
	helloDue   bool
	zerosDue   bool
}

// session is what both sides share after the handshake; a new one starts empty.
type session struct {
	established bool
	tag         uint64
	version     byte
	sent, got   uint32 // frames, the next one's sequence number
	streams     map[uint32]*Stream
	silent      map[*Stream]bool // opened here, without an id, as nothing was sent on them yet
	open        [classes]int     // streams of each class, silent ones among them
	lastID      [2]uint32        // the newest id opened by the host, and by the guest, of its half
	room        int              // left for windows to grow
	lanes       [lanes][]*Stream // streams with something to send, in turn
	refused     []uint32         // OPENs to be answered by RESET
}

// lane is a queue of streams that have something to send.
type lane uint8

const (
	laneUrgent  lane = iota // CREDIT, or a RESET instead of all else
	laneControl             // DATA and the end of control streams
	laneLittle              // likewise of streams with little to send
	laneBulk                // likewise of all others
	lanes
)

func newSession(tag uint64, version byte) session {
	return session{tag: tag, version: version, streams: map[uint32]*Stream{}, silent: map[*Stream]bool{}, room: windowRoom}
}

// places returns how many streams of a class there may be.
func (hs *handshake) places(c class) int {
	switch {
	case c == classGuest:
		return guestStreams
	case hs.version < 2 && c == classControl:
		return oldControl
	case hs.version < 2:
		return oldStreams
	case c == classControl:
		return ControlStreams
	}
	return MaxStreams
}

// side says who opened the stream with this id: 0 the host, 1 the guest.
func side(id uint32) int { return int(id >> 31) }

// side is the side of a role.
func (r Role) side() int {
	if r == Host {
		return 0
	}
	return 1
}

// New starts the link over rw, which it owns from now on: closing the Mux
// closes rw, and an error of rw ends the Mux.
func New(rw io.ReadWriteCloser, role Role) *Mux {
	m := &Mux{rw: rw, role: role, done: make(chan struct{}), up: make(chan struct{})}
	m.due.L, m.accepted.L = &m.mu, &m.mu
	m.hs = handshake{mine: newEpoch(), helloDue: true, zerosDue: true}
	m.session = newSession(0, 0)
	go m.read()
	go m.write()
	return m
}

// Open opens a stream; it waits for the peer until ctx ends. The peer is told together with
// the first bytes, so that a guest wakes only once. If the peer then has no room, the
// stream ends with ErrTooMany. ErrNotTaken in a guest whose host takes no streams.
func (m *Mux) Open(ctx context.Context) (*Stream, error) {
	if m.role == Guest {
		return m.openAs(ctx, classGuest)
	}
	return m.openAs(ctx, classUser)
}

// OpenControl is a host's Open of a control stream: users' streams can't take its place,
// and are sent after it.
func (m *Mux) OpenControl(ctx context.Context) (*Stream, error) {
	return m.openAs(ctx, classControl)
}

func (m *Mux) openAs(ctx context.Context, c class) (*Stream, error) {
	for {
		m.mu.Lock()
		if m.session.established || m.err != nil || m.hs.refused != nil {
			defer m.mu.Unlock()
			return m.open(c)
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

func (m *Mux) open(c class) (*Stream, error) {
	switch ses := &m.session; {
	case m.err != nil:
		return nil, m.err
	case m.hs.refused != nil:
		return nil, m.hs.refused
	case m.role == Guest && (!m.hs.peerTakes || m.hs.version < 2):
		return nil, ErrNotTaken
	case ses.open[c] >= m.hs.places(c):
		return nil, ErrTooMany
	case ses.lastID[m.role.side()] >= guestIDs-1-2*MaxStreams:
		m.restart(fmt.Errorf("%w: stream ids are used up", ErrReset))
		return nil, ErrReset
	default:
		return m.newStream(0, c), nil
	}
}

// Accept returns the next stream that the other side opened. It goes on over sessions: an
// error means that the Mux has ended. A guest can open streams once its host has called
// Accept.
func (m *Mux) Accept() (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.role == Host && !m.hs.takes && m.err == nil {
		m.hs.takes, m.hs.helloDue = true, true
		m.due.Signal()
	}
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

// Addr makes it a net.Listener.
func (m *Mux) Addr() net.Addr { return addr{} }

// Established reports whether the peer is known to be there.
func (m *Mux) Established() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session.established
}

// Up returns a channel that is closed when the peer is there, or when it has no version
// that we have: then Open returns an error at once. After the session's end there is
// another channel.
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
	// This unblocks the goroutines; its error is of no use any more.
	_ = m.rw.Close()
}

// read is the only reader of the pipe. It never waits for the writer: it only notes what
// the writer has to send.
func (m *Mux) read() {
	sc := newScanner(m.rw)
	for {
		f, err := sc.next()
		if err != nil {
			m.end(fmt.Errorf("%w: the pipe to the other side ended: %v", ErrReset, err))
			return
		}
		m.mu.Lock()
		m.handle(f)
		sc.version = m.hs.version
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
			m.end(fmt.Errorf("%w: the pipe to the other side ended: %v", ErrReset, err))
			return
		}
	}
}

func (m *Mux) hasDue() bool {
	ses := &m.session
	if m.hs.helloDue {
		return true
	}
	for _, l := range ses.lanes {
		if ses.established && len(l) > 0 {
			return true
		}
	}
	return ses.established && len(ses.refused) > 0
}

// fill makes the frames of one round, see Turns. At least one frame is bulk, so that many
// small sends don't stop it.
func (m *Mux) fill(b []byte) []byte {
	if m.hs.zerosDue {
		b = append(b, zeros[:]...)
	}
	if m.hs.helloDue {
		b = appendFrame(b, m.hs.version, m.hs.frame())
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
	for range len(ses.lanes[laneUrgent]) {
		b = ses.next(laneUrgent).fillUrgent(b)
	}
	for range len(ses.lanes[laneControl]) { // each once: more of one comes next round
		b = ses.next(laneControl).fillData(b, littleSize)
	}
	for range min(littleTurns, len(ses.lanes[laneLittle])) {
		b = ses.next(laneLittle).fillData(b, littleSize)
	}
	for first := true; len(ses.lanes[laneBulk]) > 0 && (first || len(b) < batchSize); first = false {
		b = ses.next(laneBulk).fillData(b, sendPayload)
	}
	return b
}

// next takes the first stream of a lane.
func (ses *session) next(l lane) *Stream {
	queue := &ses.lanes[l]
	s := (*queue)[0]
	(*queue)[0] = nil
	*queue = (*queue)[1:]
	s.queued[l] = false
	return s
}

// push puts a stream into a lane, unless it is there.
func (m *Mux) push(s *Stream, l lane) {
	if s.queued[l] || s.life == gone {
		return
	}
	s.queued[l] = true
	m.session.lanes[l] = append(m.session.lanes[l], s)
	m.due.Signal()
}

func (ses *session) frame(b []byte, k kind, id uint32, payload []byte) []byte {
	b = appendFrame(b, ses.version, frame{kind: k, stream: id, seq: ses.sent, tag: ses.tag, payload: payload})
	ses.sent++
	return b
}

func (hs *handshake) frame() frame {
	p := make([]byte, helloSize)
	p[0], p[1] = minVersion, maxVersion
	if hs.takes {
		p[2] = takesStreams
	}
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
	m.hs.peerTakes = p[2]&takesStreams != 0
	if theirs != m.hs.peer {
		m.drop(fmt.Errorf("%w: the other side was replaced", ErrReset))
		m.hs.peer, m.hs.mismatch, m.hs.refused = theirs, nil, nil
		m.hs.helloDue, m.hs.zerosDue = true, true
		m.hs.version = min(high, maxVersion)
		m.session.tag, m.session.version = m.hs.tag(m.role), m.hs.version
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

// settle ends the waiting for the peer: it is there, or has no version that we have.
func (m *Mux) settle() {
	if !m.settled {
		m.settled = true
		close(m.up)
	}
}

// drop ends the session: its streams fail with err, and the state is ready for a new one.
func (m *Mux) drop(err error) {
	all := slices.Collect(maps.Values(m.session.streams))
	for _, s := range slices.AppendSeq(all, maps.Keys(m.session.silent)) {
		s.fail(err)
		s.life = gone
	}
	if m.settled {
		m.settled, m.up = false, make(chan struct{})
	}
	m.incoming = nil
	m.session = newSession(m.hs.tag(m.role), m.hs.version)
}

// restart ends a session in which the peer broke the protocol or a frame was lost, and
// begins another with a new epoch, which no frame of the old one can reach.
func (m *Mux) restart(err error) {
	m.hs.mine = newEpoch()
	m.hs.helloDue, m.hs.zerosDue = true, true
	m.drop(err)
	m.due.Signal()
}

// tag is the tag of the session of both epochs.
func (hs *handshake) tag(r Role) uint64 {
	host, guest := hs.mine, hs.peer
	if r == Guest {
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

// handle handles one intact frame. All of it is checked.
func (m *Mux) handle(f frame) {
	if f.kind == kindHello {
		m.hello(f.payload)
		return
	}
	if m.err != nil || m.hs.peer == 0 || m.hs.mismatch != nil || f.tag != m.session.tag {
		return // of an earlier session
	}
	m.establish() // the tag proves that the peer knows our epoch
	if f.seq != m.session.got {
		m.restart(fmt.Errorf("%w: frame %d came in place of %d", ErrReset, f.seq, m.session.got))
		return
	}
	m.session.got++
	if f.kind == kindOpen && (m.role == Guest && side(f.stream) == 0 || m.role == Host && side(f.stream) == 1 && m.hs.takes) {
		m.opened(f)
		return
	}
	s := m.session.streams[f.stream]
	switch {
	case s != nil:
		s.handle(f)
	case f.kind == kindOpen, f.kind < kindHello, f.kind > kindReset, f.stream&^guestIDs == 0, f.stream&^guestIDs > m.session.lastID[side(f.stream)]:
		m.restart(fmt.Errorf("%w: the other side sent a frame of kind %d for stream %d, which can't be", ErrReset, f.kind, f.stream))
	}
	// All others are frames that were under way when we forgot the stream.
}

// opened takes an OPEN of the other side.
func (m *Mux) opened(f frame) {
	ses := &m.session
	last := &ses.lastID[side(f.stream)]
	if f.stream&^guestIDs <= *last {
		m.restart(fmt.Errorf("%w: stream %d was opened after %d", ErrReset, f.stream, *last))
		return
	}
	*last = f.stream &^ guestIDs
	c := classUser
	switch {
	case m.role == Host:
		c = classGuest
	case len(f.payload) > 0 && class(f.payload[0]) == classControl:
		c = classControl
	}
	// Older hosts send no class: their control streams count as users'.
	most := m.hs.places(c)
	if m.hs.version < 2 && m.role == Guest {
		most = oldStreams + oldControl
	}
	if ses.open[c] < most {
		m.incoming = append(m.incoming, m.newStream(f.stream, c))
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

type addr struct{}

func (addr) Network() string { return "link" }
func (addr) String() string  { return "link" }

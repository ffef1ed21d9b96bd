// Package session keeps the commands that the agent runs: their processes, their output,
// the input they haven't read, and how they ended. A session outlives the streams that
// follow it.
//
// It knows nothing of how a client reaches the agent (it needs only a net.Conn), of what
// else the agent offers, or of booting.
//
// # Output
//
// What a command writes is kept until its client confirms it, up to a bound.
// While a client follows, a full spool holds the command back, as a full pipe
// would. When the client's stream breaks, that goes on for a grace time; after
// it, and at once for a detached command, the oldest output is dropped and
// counted. What a client has of a detached command stays until its room is needed.
//
// # The end
//
// A command has ended when its first process is dead and its output is drained. A process
// that it left behind may keep the output open for ever. So output is also drained when
// there is nothing to read, and was nothing new for a fifth of a second. What such a
// process writes later is read and thrown away, so that it can go on; a terminal is hung
// up. ssh and docker do the same.
package session

import (
	"cmp"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/quick"
)

const (
	defaultGrace = time.Minute
	defaultHold  = 100 * time.Millisecond
	drainBound   = 200 * time.Millisecond
)

// following is who follows a session.
type following struct {
	follower *follower // nil while nobody does
	client   string    // name of the last one, and which of its streams it was
	try      int
}

// session is one command. Its lock guards everything but the first group.
type session struct {
	t    *Table
	spec guest.ExecSpec

	mu   sync.Mutex
	wake sync.Cond // broadcast on every change anybody may wait for
	progress
	proc    *process // nil: it doesn't run yet, or never did
	out     spool
	in      stdin
	signals int64 // signal frames taken
	following
	lossy   bool // a full spool drops output instead of holding the command back
	grace   *time.Timer
	reading int // output streams not yet at their end
	from    [2]*quick.File
	held    int // output streams waiting for room in the spool
}

// progress is how far a session is.
type progress struct {
	stage stage
	early early
	exit  *guest.ExitStatus // how it ended; for everybody to see when it is over
}

// stage is how far a session is.
type stage uint8

const (
	starting stage = iota // a file it needs is looked up, which may take for ever
	running
	draining // the process is dead and reaped, its output isn't all read
	over
)

// early is what a client sent while the session was starting.
type early struct {
	signals []syscall.Signal // at most maxEarly
	size    *guest.WinSize
	closed  [2]bool // outputs that nobody reads
}

// maxEarly bounds the signals for a session that is starting.
const maxEarly = 64

// stdin is what the client sent and the command hasn't taken yet.
type stdin struct {
	buf      *guest.Store
	last     byte // the last one that the command's terminal got
	received int64
	taken    int64 // written to the command's pipe, or thrown away because it is closed
	eof      bool  // the client has no more
	closed   bool  // the command has closed its stdin
}

func newSession(t *Table, spec guest.ExecSpec) *session {
	s := &session{t: t, spec: spec}
	s.wake.L = &s.mu
	s.in.buf = guest.NewStore(guest.StdinWindow)
	s.out.limit, s.out.keeps = defaultSpool, spec.Detach
	if kib := spec.SpoolKiB; kib > 0 && kib < defaultSpool>>10 {
		s.out.limit = max(kib<<10, minSpool)
	}
	return s
}

// begin notes that the command was started, or why it never ran. It then does what the
// client asked for meanwhile.
func (s *session) begin(proc *process, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake.Broadcast()
	if err != nil {
		s.neverRan(err)
		go s.t.prune()
		return
	}
	s.proc, s.stage = proc, running
	if s.early.size != nil {
		proc.resize(*s.early.size)
	}
	s.run()
	for i, closed := range s.early.closed {
		if closed {
			proc.hangUp(i)
		}
	}
	for _, sig := range s.early.signals {
		proc.signal(sig)
	}
	s.early = early{}
}

// run starts the goroutines of a started process. It needs s.mu.
func (s *session) run() {
	for i, f := range s.proc.out {
		if f != nil {
			s.reading++
			s.from[i] = quick.New(f)
			go s.read(i, s.from[i])
		}
	}
	if s.spec.Stdin {
		go s.feed(quick.New(s.proc.stdin))
	} else {
		s.in.closed = true
	}
	go s.wait()
	if s.follower == nil {
		s.abandoned()
	}
}

// read moves one output stream into the spool.
func (s *session) read(stream int, f *quick.File) {
	buf := newSmall() // a quiet command costs a page
	for {
		n, err := f.Read(buf)
		s.mu.Lock()
		if n > 0 && s.stage != over {
			if s.store(stream, buf[:n]) {
				buf = newBuffer()
			}
		}
		f.Kept()
		if err != nil {
			s.reading--
			s.endIfDrained()
			s.mu.Unlock()
			f.Close()
			recycle(buf)
			return
		}
		s.mu.Unlock()
		if n == smallChunk && len(buf) == n {
			recycle(buf)
			buf = newBuffer()
		}
	}
}

// store waits for room and keeps what b holds, or b itself. It needs s.mu.
func (s *session) store(stream int, b []byte) (kept bool) {
	s.held++
	for s.out.full() && !s.lossy && s.stage != over {
		s.wake.Wait()
	}
	s.held--
	kept = s.out.append(stream, b)
	if s.lossy {
		s.out.shrink()
	}
	s.wake.Broadcast()
	return kept
}

// feed moves what the client sent into the command's stdin.
func (s *session) feed(to io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for s.in.buf.Len() == 0 && !s.in.eof && s.stage != over {
			s.wake.Wait()
		}
		if s.stage == over {
			return // closed by end
		}
		if s.in.buf.Len() == 0 {
			s.finishStdin()
			return
		}
		b := s.in.buf.At(0, stdinAckEvery)
		s.mu.Unlock()
		_, err := to.Write(b)
		s.mu.Lock()
		if s.in.closed {
			return
		}
		s.in.last = b[len(b)-1]
		s.in.buf.Drop(len(b))
		s.in.taken += int64(len(b))
		if err != nil { // EPIPE, EIO: the command has closed its stdin
			s.closeStdin()
			return
		}
		s.wake.Broadcast()
	}
}

// finishStdin tells the command that its input has ended: it closes a pipe, and sends a
// terminal in line mode its end-of-file character, as a person would.
func (s *session) finishStdin() {
	if s.proc.tty {
		tty, eof := s.proc.stdin, []byte(nil)
		control(tty, func(fd int) {
			if tio, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
				eof = endOfFile(tio, s.in.received > 0, s.in.last)
			}
		})
		if len(eof) > 0 {
			s.mu.Unlock()
			_, _ = tty.Write(eof)
			s.mu.Lock()
		}
	}
	s.closeStdin()
}

// endOfFile returns the characters that end a terminal's input after the byte last, if
// there was any. In the middle of a line one end-of-file character only hands the line so
// far to the reader; it takes a second one to end the input (termios(3), VEOF).
func endOfFile(tio *unix.Termios, any bool, last byte) []byte {
	eof := tio.Cc[unix.VEOF]
	if tio.Lflag&unix.ICANON == 0 || eof == 0 {
		return nil
	}
	ends := []byte{'\n', eof}
	for _, c := range []int{unix.VEOL, unix.VEOL2} {
		if tio.Cc[c] != 0 {
			ends = append(ends, tio.Cc[c])
		}
	}
	if tio.Iflag&unix.ICRNL != 0 {
		ends = append(ends, '\r')
	}
	if any && !slices.Contains(ends, last) {
		return []byte{eof, eof}
	}
	return []byte{eof}
}

// closeStdin throws away all stdin, also what comes later. It needs s.mu.
func (s *session) closeStdin() {
	s.in.closed, s.in.taken = true, s.in.received
	s.in.buf = guest.NewStore(guest.StdinWindow)
	if !s.proc.tty && s.proc.stdin != nil {
		s.proc.stdin.Close()
	}
	s.wake.Broadcast()
}

// send takes stdin from a client. Bytes it sent before, on a stream that broke,
// are skipped; a hole, or more than the window, is the client's error.
func (s *session) send(off int64, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off > s.in.received {
		return guest.Errorf(guest.CodeProtocol, "stdin jumps from offset %d to %d", s.in.received, off)
	}
	skip := min(s.in.received-off, int64(len(b)))
	b = b[skip:]
	if len(b) == 0 {
		return nil
	}
	if s.in.eof {
		return guest.Errorf(guest.CodeProtocol, "stdin goes on after its end")
	}
	if s.in.received+int64(len(b))-s.in.taken > guest.StdinWindow {
		return guest.Errorf(guest.CodeProtocol, "more than %d bytes of unconfirmed stdin", guest.StdinWindow)
	}
	s.in.received += int64(len(b))
	if s.in.closed {
		s.in.taken = s.in.received
	} else {
		s.in.buf.Add(b)
	}
	s.wake.Broadcast()
	return nil
}

// sendEOF ends stdin at an offset. It may be called again.
func (s *session) sendEOF(off int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off != s.in.received {
		return guest.Errorf(guest.CodeProtocol, "stdin ends at offset %d, but %d bytes came", off, s.in.received)
	}
	s.in.eof = true
	s.wake.Broadcast()
	return nil
}

// wait follows the process to its end.
func (s *session) wait() {
	s.proc.await()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.proc.reap()
	s.exit, s.stage = &st, draining
	go s.t.groups.Give(s.proc.group)
	s.endIfDrained()
	if s.stage != over {
		s.drainLater(s.out.end)
	}
}

// drainLater checks again, after the drain bound, whether the output is drained; seen is
// how much there was. Output that we haven't read, or that waits for room, isn't drained.
func (s *session) drainLater(seen [2]int64) {
	time.AfterFunc(drainBound, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.stage == over:
		case s.out.end != seen, s.held > 0, s.proc.unread() > 0, s.taking(): // in this order: what isn't unread is being taken, or kept
			s.drainLater(s.out.end)
		default:
			s.end()
		}
	})
}

// taking reports whether a reader has output that isn't in the spool yet. It needs s.mu.
func (s *session) taking() bool {
	return slices.ContainsFunc(s.from[:], func(f *quick.File) bool { return f != nil && f.Taking() })
}

// endIfDrained needs s.mu.
func (s *session) endIfDrained() {
	if s.stage == draining && s.reading == 0 && s.held == 0 {
		s.end()
	}
}

// end makes the exit known. It needs s.mu.
func (s *session) end() {
	s.stage = over
	if s.grace != nil {
		s.grace.Stop()
	}
	s.closeStdin()
	if s.proc.tty {
		s.proc.out[stdout].Close() // hangs up what still uses the terminal
	}
	s.wake.Broadcast()
	go s.t.prune()
}

// signal sends a signal to a session that runs, or will.
func (s *session) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.stage {
	case starting:
		if len(s.early.signals) < maxEarly {
			s.early.signals = append(s.early.signals, sig)
		}
	case running:
		s.proc.signal(sig)
	default:
		return guest.Errorf(guest.CodeConflict, "session %s has ended", s.spec.ID)
	}
	return nil
}

// resize sets the size of a session's terminal.
func (s *session) resize(size guest.WinSize) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == starting {
		s.early.size = &size
		return
	}
	s.proc.resize(size)
}

// closeOutput closes an output stream for the command, as nobody reads it any more.
func (s *session) closeOutput(stream int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == starting {
		s.early.closed[stream] = true
		return
	}
	s.proc.hangUp(stream)
}

// abandoned notes that no client follows. It needs s.mu.
func (s *session) abandoned() {
	if s.stage == over {
		return
	}
	if s.spec.Detach {
		s.setLossy()
		return
	}
	s.grace = time.AfterFunc(cmp.Or(s.t.Grace, defaultGrace), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.follower == nil {
			s.setLossy()
		}
	})
}

func (s *session) setLossy() {
	s.lossy = true
	s.out.shrink()
	s.wake.Broadcast()
}

// state describes the session.
func (s *session) state() guest.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := guest.Session{Spec: s.spec, Stdout: s.out.end[stdout], Stderr: s.out.end[stderr],
		Dropped: s.out.dropped[stdout] + s.out.dropped[stderr]}
	if s.proc != nil {
		d.PID, d.Started = s.proc.pid, s.proc.begun
	}
	if s.stage == over {
		d.Exit = s.exit
	}
	return d
}

// finished reports whether the session is over and nobody follows it, and how many bytes
// it keeps.
func (s *session) finished() (size int, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.size, s.stage == over && s.follower == nil
}

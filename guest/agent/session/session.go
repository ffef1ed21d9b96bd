// Package session keeps the commands the agent runs: their processes, what they
// wrote, what they are still to read, and how they ended. A session outlives
// every stream that follows it.
//
// It refuses to know how a client reaches the agent (any net.Conn will do), what
// else the agent offers, and everything about booting.
//
// # Output
//
// What a command writes is kept until its client confirms it, up to a bound.
// While a client follows, a full spool holds the command back, as a full pipe
// would. When the client's stream breaks, that goes on for a grace time; after
// it, and at once for a detached command, the oldest output is dropped and
// counted.
//
// # The end
//
// A command has ended when its first process is dead and its output is drained.
// A process it left behind may hold the output open for ever, so drained also
// means: nothing to read, and nothing new for a fifth of a second. What such a
// process writes later is read and thrown away, so that it lives on; a terminal
// is hung up. ssh and docker draw the same line.
package session

import (
	"cmp"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
)

const (
	defaultGrace = time.Minute
	defaultHold  = 100 * time.Millisecond
	drainBound   = 200 * time.Millisecond
)

// following is who follows a session.
type following struct {
	follower *follower // nil while nobody does
	client   string    // the last one's name, and which of its streams it was
	try      int
}

// session is one command. Its lock guards everything but the first group.
type session struct {
	t    *Table
	spec guest.ExecSpec

	mu      sync.Mutex
	wake    sync.Cond // broadcast on every change anybody may wait for
	proc    *process  // nil: it never ran
	out     spool
	in      stdin
	signals int64 // signal frames taken
	following
	lossy   bool // a full spool drops rather than holds back
	grace   *time.Timer
	reading int               // output streams not yet at their end
	held    int               // output streams waiting for room in the spool
	exit    *guest.ExitStatus // set when the process was reaped
	over    bool              // exit is for everybody to see: the output is drained too
}

// stdin is what the client sent and the command hasn't taken yet.
type stdin struct {
	buf      []byte
	received int64
	taken    int64 // written to the command's pipe, or thrown away because it is closed
	eof      bool  // the client has no more
	closed   bool  // the command reads no more
}

func newSession(t *Table, spec guest.ExecSpec) *session {
	s := &session{t: t, spec: spec}
	s.wake.L = &s.mu
	s.out.limit = defaultSpool
	if kib := spec.SpoolKiB; kib > 0 && kib < defaultSpool>>10 {
		s.out.limit = max(kib<<10, minSpool)
	}
	return s
}

// run starts the goroutines of a started process. It needs s.mu.
func (s *session) run() {
	for i, f := range s.proc.out {
		if f != nil {
			s.reading++
			go s.read(i, f)
		}
	}
	if s.spec.Stdin {
		go s.feed()
	} else {
		s.in.closed = true
	}
	go s.wait()
	s.abandoned()
}

// read moves one output stream into the spool.
func (s *session) read(stream int, f *os.File) {
	buf := make([]byte, 4096) // a quiet command costs a page
	for {
		n, err := f.Read(buf)
		s.mu.Lock()
		if n > 0 && !s.over {
			s.store(stream, buf[:n])
		}
		if err != nil {
			s.reading--
			s.endIfDrained()
			s.mu.Unlock()
			f.Close()
			return
		}
		s.mu.Unlock()
		if n == len(buf) && n < guest.MaxData {
			buf = make([]byte, guest.MaxData)
		}
	}
}

// store waits for room and keeps b. It needs s.mu.
func (s *session) store(stream int, b []byte) {
	s.held++
	for s.out.full() && !s.lossy && !s.over {
		s.wake.Wait()
	}
	s.held--
	s.out.append(stream, b)
	if s.lossy {
		s.out.shrink()
	}
	s.wake.Broadcast()
}

// feed moves what the client sent into the command's stdin.
func (s *session) feed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.in.buf) == 0 && !s.in.eof && !s.over {
			s.wake.Wait()
		}
		if s.over {
			return // closed by end
		}
		if len(s.in.buf) == 0 {
			s.finishStdin()
			return
		}
		b := s.in.buf
		if len(b) > guest.MaxData {
			b = b[:guest.MaxData]
		}
		s.mu.Unlock()
		_, err := s.proc.stdin.Write(b)
		s.mu.Lock()
		if s.in.closed {
			return
		}
		s.in.buf = s.in.buf[len(b):]
		s.in.taken += int64(len(b))
		if len(s.in.buf) == 0 {
			s.in.buf = nil
		}
		if err != nil { // EPIPE, EIO: it reads no more, as on any pipe
			s.closeStdin()
			return
		}
		s.wake.Broadcast()
	}
}

// finishStdin tells the command that its input has ended: a pipe is closed; a
// terminal in line mode gets its end-of-file character, as from a person.
func (s *session) finishStdin() {
	if s.proc.tty {
		tty, eof := s.proc.stdin, byte(0)
		control(tty, func(fd int) {
			if tio, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil && tio.Lflag&unix.ICANON != 0 {
				eof = tio.Cc[unix.VEOF]
			}
		})
		if eof != 0 {
			s.mu.Unlock()
			_, _ = tty.Write([]byte{eof})
			s.mu.Lock()
		}
	}
	s.closeStdin()
}

// closeStdin throws away what is and what will be sent. It needs s.mu.
func (s *session) closeStdin() {
	s.in.closed, s.in.buf, s.in.taken = true, nil, s.in.received
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
		s.in.buf = append(s.in.buf, b...)
	}
	s.wake.Broadcast()
	return nil
}

// sendEOF ends stdin at an offset; again is harmless.
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
	s.exit = &st
	go s.t.groups.give(s.proc.group)
	s.endIfDrained()
	if !s.over {
		s.drainLater(s.out.end)
	}
}

// drainLater looks again after the drain bound; seen is how much output there
// was. Output nobody has read yet, or that waits for a client, isn't drained.
func (s *session) drainLater(seen [2]int64) {
	time.AfterFunc(drainBound, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.over:
		case s.out.end != seen, s.held > 0, s.proc.unread() > 0:
			s.drainLater(s.out.end)
		default:
			s.end()
		}
	})
}

// endIfDrained needs s.mu.
func (s *session) endIfDrained() {
	if s.exit != nil && s.reading == 0 && s.held == 0 && !s.over {
		s.end()
	}
}

// end makes the exit known. It needs s.mu.
func (s *session) end() {
	s.over = true
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

// signal sends a signal to a session that runs.
func (s *session) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exit != nil {
		return guest.Errorf(guest.CodeConflict, "session %s has ended", s.spec.ID)
	}
	s.proc.signal(sig)
	return nil
}

// resize sets the size of a session's terminal.
func (s *session) resize(size guest.WinSize) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil && s.proc.tty && !s.over {
		control(s.proc.out[stdout], func(fd int) { setSize(fd, size) })
	}
}

// closeOutput makes an output stream one that nobody reads.
func (s *session) closeOutput(stream int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil && s.proc.out[stream] != nil {
		s.proc.out[stream].Close()
	}
}

// abandoned notes that no client follows. It needs s.mu.
func (s *session) abandoned() {
	if s.over {
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
	if s.over {
		d.Exit = s.exit
	}
	return d
}

// finished reports whether the session is over and nobody follows it, and what
// it keeps.
func (s *session) finished() (size int, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.size, s.over && s.follower == nil
}

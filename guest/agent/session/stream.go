package session

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"time"

	"banger/guest"
)

// stdinAckEvery is how much stdin is taken before the client is told, unless there is
// output to send with that. A client may send four times as much meanwhile, so it waits for
// none of it.
const stdinAckEvery = guest.StdinWindow / 4

// goodbyeTimeout bounds how long a client that was sent away may stay.
const goodbyeTimeout = 5 * time.Second

// follower is one client's stream of a session. The session's lock guards it.
type follower struct {
	s        *session
	at       cursor
	held     bool // the answer is kept back, see hold
	stdinAck int64
	err      error // what the client is told before the stream ends early
	gone     bool  // the client's side broke or said goodbye

	until *[2]int64 // offsets where a reader ends that doesn't follow the session to its end
}

// Exec answers an ExecRequest on conn, of which r is the reading side, and
// carries the session's frames when the client follows it. It returns when the
// stream has done its work; closing it is the caller's.
func (t *Table) Exec(conn net.Conn, r *bufio.Reader, version int, req guest.ExecRequest) error {
	var s *session
	var err error
	if req.Attach {
		s, err = t.find(req.Spec.ID)
	} else {
		s, err = t.open(req.Spec)
	}
	var f *follower
	var at guest.Attached
	if err == nil && !req.Follow && !req.Attach {
		s.awaitStart() // the answer is whether it could be started
	}
	if err == nil {
		f, at, err = s.attach(req)
	}
	hello, err := guest.AppendResponse(nil, version, at, err)
	if err != nil {
		return err
	}
	if f == nil {
		_, err = conn.Write(hello)
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.leave(f.receive(r))
	}()
	if !req.Attach {
		defer f.hold().Stop()
	}
	if err := f.transmit(conn, hello); err != nil {
		f.leave(err)
		conn.Close()
	}
	if f.told() {
		_ = conn.SetReadDeadline(time.Now().Add(goodbyeTimeout))
	}
	<-done // the client says goodbye
	return nil
}

// hold keeps the answer to a new command back for a moment, so that it is sent together
// with the command's first output or its end and wakes the host only once.
func (f *follower) hold() *time.Timer {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	f.held = true
	return time.AfterFunc(cmp.Or(s.t.Hold, defaultHold), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		f.held = false
		s.wake.Broadcast()
	})
}

// told reports whether the client was sent away with an error.
func (f *follower) told() bool {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	return f.err != nil
}

// attach makes a client the follower, in place of the one before.
func (s *session) attach(req guest.ExecRequest) (*follower, guest.Attached, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Follow && req.Client != "" && req.Client == s.client && req.Try <= s.try {
		return nil, guest.Attached{}, guest.Errorf(guest.CodeSuperseded, "a later stream of the same client follows session %s", s.spec.ID)
	}
	at, gap, ok := s.out.seek([2]int64{req.Stdout, req.Stderr})
	if !ok {
		return nil, guest.Attached{}, guest.Errorf(guest.CodeInvalid, "the client has more output than there was")
	}
	d := guest.Attached{TTY: s.spec.TTY != nil, TakesStdin: s.spec.Stdin, Stdin: s.in.received, Signals: s.signals,
		Stdout: at.sent[stdout], Stderr: at.sent[stderr], StdoutGap: gap[stdout], StderrGap: gap[stderr]}
	if s.proc != nil {
		d.PID = s.proc.pid
	}
	if s.stage == over {
		d.Exit = s.exit
	}
	if !req.Follow {
		return nil, d, nil
	}
	if old := s.follower; old != nil {
		old.err = guest.Errorf(guest.CodeSuperseded, "another client follows session %s now", s.spec.ID)
	}
	if s.grace != nil {
		s.grace.Stop()
	}
	s.lossy = false
	s.client, s.try = req.Client, req.Try
	s.follower = &follower{s: s, at: at} // it confirms stdin again: the last message may have been lost
	s.out.follow(at.sent)
	s.wake.Broadcast()
	return s.follower, d, nil
}

// leave ends a follower; a session without one waits for the next.
func (f *follower) leave(err error) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, told := errors.AsType[*guest.Error](err); !told {
		f.gone = true
	} else if f.err == nil {
		f.err = err
	}
	if s.follower == f {
		s.follower = nil
		s.abandoned()
	}
	s.wake.Broadcast()
	if s.stage == over {
		go s.t.prune()
	}
}

// transmit sends hello and then what the session has, until the session has ended, the
// client has gone, or the stream breaks, which is an error.
func (f *follower) transmit(conn net.Conn, hello []byte) error {
	for buf, last := hello, false; ; buf = buf[:0] {
		if buf, last = f.gather(buf); buf == nil {
			return nil
		}
		if _, err := conn.Write(buf); err != nil || last {
			return err
		}
	}
}

// gather waits for frames to send and appends them to buf, where the answer may
// stand already. Nil: the client has gone; last: nothing comes after these.
func (f *follower) gather(buf []byte) (_ []byte, last bool) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for empty := len(buf); ; {
		if f.gone {
			return nil, true
		}
		if f.err != nil {
			return guest.AppendFrame(buf, errorFrame(f.err)), true
		}
		if taken := s.in.taken; taken-f.stdinAck >= stdinAckEvery || taken > f.stdinAck && s.out.pending(f.at) {
			f.stdinAck = taken
			buf = guest.AppendFrame(buf, guest.Frame{Type: guest.FrameStdinAck, Offset: taken})
		}
		for len(buf) < guest.MaxData {
			stream, off, data := s.out.take(&f.at)
			if data == nil {
				break
			}
			typ := guest.FrameStdout + guest.FrameType(stream)
			buf = guest.AppendFrame(buf, guest.Frame{Type: typ, Offset: off, Data: data})
		}
		if s.stage == over && !s.out.pending(f.at) || f.sated() {
			return guest.AppendFrame(buf, f.final()), true
		}
		if len(buf) > empty || len(buf) > 0 && !f.held {
			return buf, false
		}
		s.wake.Wait()
	}
}

// final is the last frame. To one that ends before the session does, all is what it got.
func (f *follower) final() guest.Frame {
	last := guest.Final{Stdout: f.s.out.end[stdout], Stderr: f.s.out.end[stderr]}
	if f.s.out.pending(f.at) {
		last.Stdout, last.Stderr = f.at.sent[stdout], f.at.sent[stderr]
	}
	if f.s.stage == over {
		last.Exit = *f.s.exit
	}
	raw, _ := json.Marshal(last)
	return guest.Frame{Type: guest.FrameExit, Data: raw}
}

func errorFrame(err error) guest.Frame {
	raw, _ := json.Marshal(guest.Error{Code: guest.CodeOf(err), Message: err.Error()})
	return guest.Frame{Type: guest.FrameError, Data: raw}
}

// receive takes the client's frames until its side ends. It never waits for the
// command.
func (f *follower) receive(r io.Reader) error {
	frames := guest.NewFrameReader(r)
	for {
		fr, err := frames.Next()
		if err != nil {
			return err
		}
		if err := f.take(fr); err != nil {
			return err
		}
		if fr.Type == guest.FrameForget {
			return io.EOF
		}
	}
}

// take handles one frame of the client.
func (f *follower) take(fr guest.Frame) error {
	s := f.s
	if !f.current() {
		return guest.Errorf(guest.CodeSuperseded, "another client follows session %s now", s.spec.ID)
	}
	malformed := func() error {
		return guest.Errorf(guest.CodeProtocol, "a frame of type %d with %d bytes", fr.Type, len(fr.Data))
	}
	switch fr.Type {
	case guest.FrameStdin:
		return s.send(fr.Offset, fr.Data)
	case guest.FrameStdinEOF:
		return s.sendEOF(fr.Offset)
	case guest.FrameAck:
		if len(fr.Data) != 8 {
			return malformed()
		}
		return f.confirm([2]int64{fr.Offset, int64(binary.BigEndian.Uint64(fr.Data))})
	case guest.FrameResize:
		if len(fr.Data) != 4 {
			return malformed()
		}
		s.resize(guest.WinSize{Rows: binary.BigEndian.Uint16(fr.Data), Cols: binary.BigEndian.Uint16(fr.Data[2:])})
	case guest.FrameSignal:
		return f.signal(fr.Offset, string(fr.Data))
	case guest.FrameClose:
		if fr.Offset != 1 && fr.Offset != 2 {
			return malformed()
		}
		s.closeOutput(int(fr.Offset) - 1)
	case guest.FrameForget:
		s.t.mu.Lock()
		defer s.t.mu.Unlock()
		if s.state().Exit != nil {
			s.t.remove(s)
		}
	default:
		return guest.Errorf(guest.CodeProtocol, "a frame of unknown type %d", fr.Type)
	}
	return nil
}

// current reports whether no other client has taken over.
func (f *follower) current() bool {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.follower == f
}

// confirm notes what a client has. It is an error if that is more than it was sent.
func (f *follower) confirm(have [2]int64) error {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if have[stdout] > f.at.sent[stdout] || have[stderr] > f.at.sent[stderr] {
		return guest.Errorf(guest.CodeProtocol, "the client confirms output it was never sent")
	}
	if s.follower == f {
		s.out.ack(have)
		s.wake.Broadcast()
	}
	return nil
}

// signal delivers the index-th signal of a client, once.
func (f *follower) signal(index int64, name string) error {
	s := f.s
	sig, err := signalNumber(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	count := s.signals
	if index == count {
		s.signals++
	}
	s.mu.Unlock()
	switch {
	case index > count:
		return guest.Errorf(guest.CodeProtocol, "signal %d before signal %d", index, count)
	case index == count:
		_ = s.signal(sig) // too late is no error
	}
	return nil
}

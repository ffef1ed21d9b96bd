package guest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// ackEvery is how much output a client takes before it confirms. An agent's
// smallest spool is four times that.
const ackEvery = 64 << 10

// goodbyeTimeout bounds the courtesy of telling the agent to forget a session.
const goodbyeTimeout = time.Second

// Exec runs a command and follows it to its end: streams are copied, signals
// and sizes passed on, a broken stream is taken up again without a byte lost or
// doubled. An empty spec.ID is chosen here. A command that could not be started
// is no error but a status with Error set. When ctx ends first the command goes
// on: signal it if it shall not. A Read of near.Stdin that is blocked when Exec
// returns stays blocked, and what it then reads is lost.
//
// When near.Stdout or near.Stderr refuses a write the command sees what it would see
// on a local pipe whose reader died; Exec returns its status and the write's error.
func (c *Client) Exec(ctx context.Context, spec ExecSpec, near IO) (ExitStatus, error) {
	if spec.ID == "" {
		spec.ID = NewID()
	}
	f := newFollow(spec, near)
	f.stdinKnown, f.forget = true, true
	return c.follow(ctx, f)
}

// Attach follows a session that was started before, from the oldest output
// still kept, until it ends. The session stays known: Forget ends that. A client
// that was attached is told CodeSuperseded. An unknown id is CodeNotFound. A nil
// near.Stdin leaves the command's stdin as it is.
func (c *Client) Attach(ctx context.Context, id string, near IO) (ExitStatus, error) {
	f := newFollow(ExecSpec{ID: id}, near)
	f.attach, f.out = true, [2]int64{-1, -1}
	return c.follow(ctx, f)
}

// follow is one session seen from the client: all that must survive a stream.
type follow struct {
	spec    ExecSpec
	io      IO
	writers [2]io.Writer
	forget  bool // the session may go when it has ended

	// Of the goroutine that reads streams alone.
	attach   bool     // the session is known to exist: never start it again
	client   string   // this follower's name
	try      int      // streams so far
	out      [2]int64 // output delivered; -1: wherever the agent begins
	writeErr [2]error // what a writer refused with; its stream is discarded

	mu         sync.Mutex // guards what follows
	wake       sync.Cond  // broadcast on every change
	up         upstream
	stdinKnown bool // up.base is the agent's offset
	takesStdin bool
	over       bool // nothing more will be sent
}

// upstream is what is to reach the agent, with what was sent but not confirmed.
type upstream struct {
	stdin   []byte
	base    int64 // offset of stdin[0]
	sent    int64 // offset behind the last byte that went into any stream
	got     int64 // offset behind the last byte the agent is known to have
	eof     bool
	signals []string
	sigBase int64 // index of signals[0]
	size    *WinSize
	sizes   int64    // how often size was set
	acks    [2]int64 // output delivered
	closed  [2]bool  // outputs nobody reads
}

// sent is what of an upstream went into one stream.
type sent struct {
	stdin  int64 // offset
	eof    bool
	signal int64
	sizes  int64
	acks   [2]int64
	closed [2]bool
	early  bool // stdin needn't wait for the agent's answer: nothing was sent before
	ready  bool // the agent's answer is here
}

func newFollow(spec ExecSpec, near IO) *follow {
	f := &follow{spec: spec, client: NewID(), io: near, writers: [2]io.Writer{near.Stdout, near.Stderr}}
	f.wake.L = &f.mu
	f.takesStdin = spec.Stdin
	return f
}

func (c *Client) follow(ctx context.Context, f *follow) (ExitStatus, error) {
	done := make(chan struct{})
	defer close(done)
	defer f.stop()
	if f.spec.Stdin {
		go f.readStdin()
	}
	if f.io.Resize != nil || f.io.Signals != nil {
		go f.readControls(done)
	}
	var st ExitStatus
	err := c.persist(ctx, f.io.Reconnect, func(conn net.Conn) (bool, error) { return f.stream(conn, &st) })
	if err != nil {
		return ExitStatus{}, err
	}
	return st, errors.Join(f.writeErr[0], f.writeErr[1])
}

func (f *follow) stop() {
	f.mu.Lock()
	f.over = true
	f.wake.Broadcast()
	f.mu.Unlock()
}

// readStdin fills the window of stdin bytes the agent hasn't confirmed.
func (f *follow) readStdin() {
	buf := make([]byte, MaxData)
	for {
		var n int
		err := io.EOF
		if f.io.Stdin != nil {
			n, err = f.io.Stdin.Read(buf)
		}
		f.mu.Lock()
		for len(f.up.stdin)+n > StdinWindow && !f.over {
			f.wake.Wait()
		}
		if f.over {
			f.mu.Unlock()
			return
		}
		f.up.stdin = append(f.up.stdin, buf[:n]...)
		// A reader that fails is one that ended: the command sees end of file.
		f.up.eof = err != nil
		f.wake.Broadcast()
		f.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// maxSignals bounds the signals kept for a stream that is down.
const maxSignals = 256

func (f *follow) readControls(done <-chan struct{}) {
	resize, signals := f.io.Resize, f.io.Signals
	for {
		select {
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			f.mu.Lock()
			f.up.size = &size
			f.up.sizes++
		case name, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			f.mu.Lock()
			if len(f.up.signals) < maxSignals {
				f.up.signals = append(f.up.signals, name)
			}
		case <-done:
			return
		}
		f.wake.Broadcast()
		f.mu.Unlock()
	}
}

// stream follows the session over one stream, to its end or the stream's.
func (f *follow) stream(conn net.Conn, st *ExitStatus) (progress bool, err error) {
	f.try++
	hello, err := AppendRequest(nil, OpExec, ExecRequest{Spec: f.spec, Attach: f.attach, Follow: true,
		Stdout: f.out[0], Stderr: f.out[1], Client: f.client, Try: f.try})
	if err != nil {
		return false, Errorf(CodeInvalid, "%v", err)
	}
	s := &sent{early: !f.attach}
	f.mu.Lock()
	s.stdin, s.acks = f.up.base, f.up.acks
	got := f.up.got
	f.mu.Unlock()
	broken, sender := false, make(chan struct{})
	go func() {
		defer close(sender)
		f.send(conn, hello, s, &broken)
	}()
	out := f.out
	err = f.receive(conn, s, st)
	f.mu.Lock()
	broken = true
	progress = f.out != out || f.up.got != got
	f.wake.Broadcast()
	f.mu.Unlock()
	if err != nil {
		conn.Close()
	} else {
		_ = conn.SetDeadline(time.Now().Add(goodbyeTimeout))
	}
	<-sender
	if err == nil && f.forget {
		_, _ = conn.Write(AppendFrame(nil, Frame{Type: FrameForget}))
	}
	return progress, err
}

// send writes hello and then whatever is to go up, until the stream or the
// session ends. broken is guarded by f.mu.
func (f *follow) send(conn net.Conn, hello []byte, s *sent, broken *bool) {
	buf := hello
	for {
		if _, err := conn.Write(buf); err != nil {
			return // the reading side hears of it, and of a refusal if there was one
		}
		f.mu.Lock()
		for buf = f.frames(buf[:0], s); len(buf) == 0 && !*broken && !f.over; buf = f.frames(buf, s) {
			f.wake.Wait()
		}
		end := *broken || f.over
		f.mu.Unlock()
		if end {
			return
		}
	}
}

// frames appends what of the upstream isn't in the stream yet. It needs f.mu.
func (f *follow) frames(buf []byte, s *sent) []byte {
	up := &f.up
	if up.acks != s.acks {
		s.acks = up.acks
		buf = AppendFrame(buf, Frame{Type: FrameAck, Offset: up.acks[0],
			Data: binary.BigEndian.AppendUint64(nil, uint64(up.acks[1]))})
	}
	if s.ready {
		buf = f.controls(buf, s)
	}
	if !f.stdinKnown || !f.takesStdin || !s.early && !s.ready {
		return buf
	}
	if pending := up.stdin[s.stdin-up.base:]; len(pending) > 0 {
		pending = pending[:min(len(pending), MaxData)]
		buf = AppendFrame(buf, Frame{Type: FrameStdin, Offset: s.stdin, Data: pending})
		s.stdin += int64(len(pending))
		up.sent = max(up.sent, s.stdin)
	} else if up.eof && !s.eof {
		s.eof = true
		buf = AppendFrame(buf, Frame{Type: FrameStdinEOF, Offset: s.stdin})
	}
	return buf
}

// controls appends sizes, signals and closed outputs. It needs f.mu.
func (f *follow) controls(buf []byte, s *sent) []byte {
	up := &f.up
	if up.sizes != s.sizes {
		s.sizes = up.sizes
		size := binary.BigEndian.AppendUint16(nil, up.size.Rows)
		size = binary.BigEndian.AppendUint16(size, up.size.Cols)
		buf = AppendFrame(buf, Frame{Type: FrameResize, Data: size})
	}
	for ; s.signal < up.sigBase+int64(len(up.signals)); s.signal++ {
		name := up.signals[s.signal-up.sigBase]
		buf = AppendFrame(buf, Frame{Type: FrameSignal, Offset: s.signal, Data: []byte(name)})
	}
	for i, closed := range up.closed {
		if closed && !s.closed[i] {
			s.closed[i] = true
			buf = AppendFrame(buf, Frame{Type: FrameClose, Offset: int64(i + 1)})
		}
	}
	return buf
}

// receive reads one stream: nil when the session has ended and st is set.
func (f *follow) receive(conn net.Conn, s *sent, st *ExitStatus) error {
	r := bufio.NewReaderSize(conn, MaxData)
	var at Attached
	if err := ReadResponse(r, &at); err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return cleanError(e)
		}
		return err
	}
	if err := f.attached(at, s); err != nil {
		return err
	}
	for frames := NewFrameReader(r); ; {
		fr, err := frames.Next()
		if err != nil {
			return err
		}
		switch fr.Type {
		case FrameStdout, FrameStderr:
			err = f.output(int(fr.Type-FrameStdout), fr)
		case FrameStdinAck:
			err = f.stdinAck(fr.Offset, s)
		case FrameExit:
			return f.exit(fr.Data, st)
		case FrameError:
			return remoteError(fr.Data)
		default:
			err = Errorf(CodeProtocol, "the guest sent a frame of unknown type %d", fr.Type)
		}
		if err != nil {
			return err
		}
	}
}

// attached checks and takes the agent's answer.
func (f *follow) attached(at Attached, s *sent) error {
	f.attach = true
	now, gap := [2]int64{at.Stdout, at.Stderr}, [2]int64{at.StdoutGap, at.StderrGap}
	for i, name := range []string{"stdout", "stderr"} {
		fresh := f.out[i] < 0
		if now[i] < 0 || gap[i] < 0 || !fresh && now[i]-gap[i] != f.out[i] || fresh && gap[i] > now[i] {
			return Errorf(CodeProtocol, "the guest goes on at %s offset %d, after %d", name, now[i], f.out[i])
		}
		f.out[i] = now[i]
		if gap[i] > 0 && f.io.Gap != nil {
			f.io.Gap(name, gap[i])
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.wake.Broadcast()
	f.up.acks, s.acks = f.out, f.out
	s.ready = true
	if !f.stdinKnown {
		f.stdinKnown, f.up.sigBase = true, max(at.Signals, 0)
		f.up.base = max(at.Stdin, 0)
		f.up.sent, s.stdin = f.up.base, f.up.base
		if f.takesStdin = at.TakesStdin && f.io.Stdin != nil; f.takesStdin {
			go f.readStdin()
		}
	}
	if err := f.up.taken(at.Stdin, s); f.takesStdin && err != nil {
		return err
	}
	if at.Signals < f.up.sigBase || at.Signals > f.up.sigBase+int64(len(f.up.signals)) {
		return Errorf(CodeProtocol, "the guest took %d signals", at.Signals)
	}
	s.signal = at.Signals
	return nil
}

// output delivers one frame of output. Offsets neither jump nor go back.
func (f *follow) output(i int, fr Frame) error {
	if fr.Offset != f.out[i] || len(fr.Data) == 0 {
		return Errorf(CodeProtocol, "the guest sent %d bytes of output at offset %d where %d is next",
			len(fr.Data), fr.Offset, f.out[i])
	}
	if w := f.writers[i]; w != nil && f.writeErr[i] == nil {
		_, f.writeErr[i] = w.Write(fr.Data)
	}
	f.out[i] += int64(len(fr.Data))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writeErr[i] != nil && !f.up.closed[i] {
		f.up.closed[i] = true
		f.wake.Broadcast()
	}
	if f.out[0]-f.up.acks[0]+f.out[1]-f.up.acks[1] >= ackEvery {
		f.up.acks = f.out
		f.wake.Broadcast()
	}
	return nil
}

// stdinAck lets go of what the command's pipe has taken.
func (f *follow) stdinAck(offset int64, s *sent) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.up.taken(offset, s); err != nil {
		return err
	}
	if n := offset - f.up.base; n > 0 {
		f.up.stdin = f.up.stdin[n:]
		f.up.base = offset
		f.wake.Broadcast()
	}
	return nil
}

// taken notes that the agent has stdin up to an offset: no need to send that again.
func (up *upstream) taken(offset int64, s *sent) error {
	if offset > up.sent {
		return Errorf(CodeProtocol, "the guest confirms stdin up to %d, but was sent %d bytes", offset, up.sent)
	}
	s.stdin, up.got = max(s.stdin, offset), max(up.got, offset)
	return nil
}

// exit takes the session's end, and makes sure that nothing is missing.
func (f *follow) exit(data []byte, st *ExitStatus) error {
	var final Final
	if err := json.Unmarshal(data, &final); err != nil {
		return Errorf(CodeProtocol, "the guest's exit status can't be read: %v", err)
	}
	if total := [2]int64{final.Stdout, final.Stderr}; total != f.out {
		return Errorf(CodeProtocol, "the guest wrote %d bytes but sent %d", total, f.out)
	}
	if final.Exit.Code < 0 || final.Exit.Code > 255 {
		return Errorf(CodeProtocol, "the guest reports an exit status of %d", final.Exit.Code)
	}
	*st = final.Exit
	st.Signal, st.Error = clean(st.Signal), clean(st.Error)
	return nil
}

func remoteError(data []byte) error {
	var e Error
	if err := json.Unmarshal(data, &e); err != nil || e.Code == "" {
		return Errorf(CodeProtocol, "the guest's error can't be read")
	}
	return cleanError(&e)
}

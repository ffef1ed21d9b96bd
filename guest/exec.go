package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// ackEvery is how much output a client takes before it confirms. An agent's smallest spool is
// four times that. ackBulk is likewise for the usual one, of 4 MiB: in a guest each message costs
// as much as many bytes.
const ackEvery, ackBulk = 64 << 10, 256 << 10

// goodbyeTimeout bounds the call that tells the agent to forget a session.
const goodbyeTimeout = time.Second

// Exec runs a command and follows it to its end. It copies streams and passes on signals and
// sizes. When the connection breaks it goes on, and no byte is lost or doubled. Output that was
// dropped before it could be read is CodeLost, unless near.Gap is set. The command is started
// only once: if the agent was replaced before it answered, it isn't known whether the command
// ran, which is CodeLost, too. Exec chooses an id if spec.ID is empty. A command that could not
// be started is no error but a status with Error set. If ctx ends first, the command runs on:
// send it a signal to end it. A Read of near.Stdin that is blocked when Exec returns stays
// blocked, and what it then reads is lost.
//
// When a write to near.Stdout or near.Stderr fails, the command sees what it would see on a local
// pipe whose reader died; Exec returns its status and the write's error.
func (c *Client) Exec(ctx context.Context, spec ExecSpec, near IO) (ExitStatus, error) {
	if spec.ID == "" {
		spec.ID = NewID()
	}
	f := newFollow(spec, near)
	if f.forget = true; spec.SpoolKiB == 0 {
		f.every = ackBulk
	}
	return c.follow(ctx, f)
}

// Attach follows a session that was started before, from the oldest output still kept,
// until it ends. The agent keeps the session until Forget. A client that was attached
// before gets CodeSuperseded. An unknown id is CodeNotFound. With near.Stdin nil the
// command's stdin stays open.
func (c *Client) Attach(ctx context.Context, id string, near IO) (ExitStatus, error) {
	f := newFollow(ExecSpec{ID: id}, near)
	f.started, f.out, f.up.input = true, [2]int64{-1, -1}, inputUnknown
	return c.follow(ctx, f)
}

// follow is the client's state of one session, over all its streams.
type follow struct {
	spec    ExecSpec
	io      IO
	writers [2]io.Writer
	forget  bool  // the session may go when it has ended
	every   int64 // output to take before it is confirmed

	// Used only by the goroutine that reads streams.
	started  bool // the agent has said that it knows the session: never start it again
	start    start
	client   string   // this follower's name
	try      int      // streams so far
	out      [2]int64 // output delivered; -1: wherever the agent begins
	writeErr [2]error // what a writer refused with; its stream is discarded

	mu   sync.Mutex // guards what follows
	wake sync.Cond  // broadcast on every change
	up   upstream
}

func newFollow(spec ExecSpec, near IO) *follow {
	f := &follow{spec: spec, client: NewID(), io: near, every: ackEvery, writers: [2]io.Writer{near.Stdout, near.Stderr}}
	f.wake.L = &f.mu
	f.up.stdin = NewStore(StdinWindow)
	f.up.input = inputNone
	if spec.Stdin {
		f.up.input = inputOpen
	}
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
	err := c.persist(ctx, f.io.Reconnect, func(conn net.Conn) (bool, error) {
		if !f.started {
			if err := f.start.prepare(ctx, c); err != nil {
				return false, err
			}
		}
		return f.stream(conn, &st)
	})
	if err != nil {
		return ExitStatus{}, err
	}
	return st, errors.Join(f.writeErr[0], f.writeErr[1])
}

func (f *follow) stop() {
	f.mu.Lock()
	f.up.over = true
	f.wake.Broadcast()
	f.mu.Unlock()
}

// stream follows the session over one stream, to its end or the stream's.
func (f *follow) stream(conn net.Conn, st *ExitStatus) (progress bool, err error) {
	f.try++
	agent := f.start.agent
	if f.started {
		agent = "" // any agent may answer: one that doesn't know the session says so
	}
	hello, err := appendRequest(nil, OpExec, agent, ExecRequest{Spec: f.spec, Attach: f.started, Follow: true,
		Stdout: f.out[0], Stderr: f.out[1], Client: f.client, Try: f.try})
	if err != nil {
		return false, Errorf(CodeInvalid, "%v", err)
	}
	f.mu.Lock()
	s := f.up.begin(f.started)
	got := f.up.got
	f.mu.Unlock()
	sender := make(chan struct{})
	go func() {
		defer close(sender)
		f.send(conn, hello, s)
	}()
	out := f.out
	err = f.receive(conn, s, st)
	f.mu.Lock()
	s.stage = broken
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

// send writes hello and then the upstream's frames, until the stream or the session ends.
func (f *follow) send(conn net.Conn, hello []byte, s *sent) {
	buf := hello
	for {
		if _, err := conn.Write(buf); err != nil {
			return // receive sees the error, or the agent's refusal
		}
		f.mu.Lock()
		for buf = f.up.frames(buf[:0], s); len(buf) == 0 && !f.up.done(s); buf = f.up.frames(buf, s) {
			f.wake.Wait()
		}
		done := f.up.done(s)
		f.mu.Unlock()
		if done {
			return
		}
	}
}

// receive reads one stream: nil when the session has ended and st is set.
func (f *follow) receive(conn net.Conn, s *sent, st *ExitStatus) error {
	r := bufio.NewReader(conn)
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
	f.started = true
	now, gap := [2]int64{at.Stdout, at.Stderr}, [2]int64{at.StdoutGap, at.StderrGap}
	for i, name := range []string{"stdout", "stderr"} {
		fresh := f.out[i] < 0
		if now[i] < 0 || gap[i] < 0 || !fresh && now[i]-gap[i] != f.out[i] || fresh && gap[i] > now[i] {
			return Errorf(CodeProtocol, "the guest goes on at %s offset %d, after %d", name, now[i], f.out[i])
		}
		f.out[i] = now[i]
		switch {
		case gap[i] == 0:
		case f.io.Gap != nil:
			f.io.Gap(name, gap[i])
		case f.writers[i] != nil:
			return Errorf(CodeLost, "%d bytes of %s were dropped in the guest before they could be read", gap[i], name)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.wake.Broadcast()
	if f.up.input == inputUnknown {
		f.up.learn(at, f.io.Stdin != nil)
		if f.up.input == inputOpen {
			go f.readStdin()
		}
	}
	return f.up.attached(at, f.out, s)
}

// output delivers one frame of output. Offsets neither jump nor go back.
func (f *follow) output(i int, fr Frame) error {
	if fr.Offset != f.out[i] || len(fr.Data) == 0 {
		return Errorf(CodeProtocol, "the guest sent %d bytes of output at offset %d where %d is next", len(fr.Data), fr.Offset, f.out[i])
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
	if f.out[0]-f.up.acks[0]+f.out[1]-f.up.acks[1] >= f.every {
		f.up.acks = f.out
		f.wake.Broadcast()
	}
	return nil
}

// stdinAck drops stdin that the command's pipe has taken.
func (f *follow) stdinAck(offset int64, s *sent) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.up.taken(offset, s); err != nil {
		return err
	}
	if n := offset - f.up.base; n > 0 {
		f.up.stdin.Drop(int(n))
		f.up.base = offset
		f.wake.Broadcast()
	}
	return nil
}

// exit handles the session's end, and checks that no output is missing.
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
	st.Signal, st.Error = Clean(st.Signal), Clean(st.Error)
	return nil
}

func remoteError(data []byte) error {
	var e Error
	if err := json.Unmarshal(data, &e); err != nil || e.Code == "" {
		return Errorf(CodeProtocol, "the guest's error can't be read")
	}
	return cleanError(&e)
}

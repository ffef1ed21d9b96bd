package guest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"
)

// Client is the host's side of the protocol. Its methods may be called concurrently.
//
// The first dial's error is returned as it is. When a stream breaks later, the operation
// goes on on a new one, until ctx ends. Errors from the agent, and those of an agent that
// breaks the protocol, are *Error. All that the guest sends is checked and bounded;
// control characters are removed from its texts.
type Client struct {
	Dial Dialer
	// Final reports whether after this error of a dial no further dial can succeed, as the
	// VM has ended. Nil: never. It isn't asked about the first dial.
	Final func(error) bool
}

// Configure makes the booted guest the VM of this identity and returns when its root is
// assembled. A second call with the same identity returns the same answer; another
// identity is CodeConflict. For a zero Time the host's time is sent, as it is when the
// guest is ready for it.
func (c *Client) Configure(ctx context.Context, id Identity) (Ready, error) {
	var r Ready
	err := c.call(ctx, OpConfigure, leaving{id}, &r)
	r.Agent, r.Init = Clean(r.Agent), Clean(r.Init)
	for i := range r.Stages {
		r.Stages[i].Name = Clean(r.Stages[i].Name)
	}
	r.BootID = Clean(r.BootID)
	r.Seen.Hostname, r.Seen.MachineID, r.Seen.MAC = Clean(r.Seen.Hostname), Clean(r.Seen.MachineID), Clean(r.Seen.MAC)
	for i := range r.Renewed {
		r.Renewed[i] = Clean(r.Renewed[i])
	}
	return r, err
}

// Freeze brings a booted guest without an identity to its freeze point, or stops the
// processes of a running one. Then disconnect from the channel: once the console has
// FrozenLine, a template may be made. A guest restored from that waits for Configure.
func (c *Client) Freeze(ctx context.Context) error { return c.call(ctx, OpFreeze, nil, nil) }

// leaving is an Identity that is being sent.
type leaving struct{ Identity }

// MarshalJSON fills in the time at the last moment.
func (s leaving) MarshalJSON() ([]byte, error) {
	if s.Time.IsZero() {
		s.Time = time.Now()
	}
	return json.Marshal(s.Identity)
}

// Health asks the agent how the guest is.
func (c *Client) Health(ctx context.Context) (Health, error) {
	return c.health(ctx, HealthRequest{})
}

func (c *Client) health(ctx context.Context, req HealthRequest) (Health, error) {
	var h Health
	err := c.call(ctx, OpHealth, req, &h)
	h.Agent, h.Init = Clean(h.Agent), Clean(h.Init)
	return h, err
}

// Clock sets the guest's wall clock.
func (c *Client) Clock(ctx context.Context, now time.Time) error {
	return c.call(ctx, OpClock, now, nil)
}

// clockTolerance is how far a guest's clock may be off before it is set: for programs a
// step backwards is worse than a few milliseconds.
const clockTolerance = 10 * time.Millisecond

// The time of a round trip can't be told from an offset of the clock. So the fastest of
// some readings counts, and slow ones prove nothing. A guest that has just started may be
// too busy for a fast one, and is asked again, at growing pauses.
const (
	clockReadings = 3
	clockGoodTrip = 50 * time.Millisecond
	clockPause    = 250 * time.Millisecond
	clockMaxPause = 10 * time.Second
)

// SyncClock compares the guest's wall clock with this host's and sets it when it is surely
// wrong, until a good reading finds it right or ctx ends. It returns how far it was ahead
// at first; negative when it was behind.
func (c *Client) SyncClock(ctx context.Context) (time.Duration, error) {
	var first time.Duration
	for n, pause := 0, clockPause; ; n, pause = n+1, min(2*pause, clockMaxPause) {
		offset, trip, err := c.readClock(ctx)
		if err != nil {
			return first, err
		}
		if n == 0 {
			first = offset
		}
		switch {
		case offset.Abs() > clockTolerance+trip/2:
			// The request may take long to get there, so read the clock again afterwards.
			if err := c.Clock(ctx, time.Now().Add(trip/2)); err != nil {
				return first, err
			}
		case trip <= clockGoodTrip:
			return first, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return first, context.Cause(ctx)
		}
	}
}

// readClock returns how far the guest's clock is ahead of ours by the best of some
// readings, and the round trip that one took.
func (c *Client) readClock(ctx context.Context) (offset, trip time.Duration, err error) {
	for n := range clockReadings {
		start := time.Now()
		h, err := c.health(ctx, HealthRequest{NoInit: true})
		if err != nil {
			return 0, 0, err
		}
		if took := time.Since(start); n == 0 || took < trip {
			trip, offset = took, h.Time.Sub(start.Add(took/2))
		}
	}
	return offset, trip, nil
}

// Shutdown asks the guest's init to end the machine: verb "poweroff" or
// "reboot". It returns when init was asked, not when it has finished.
func (c *Client) Shutdown(ctx context.Context, verb string) error {
	return c.call(ctx, OpShutdown, ShutdownRequest{verb}, nil)
}

// Start starts a command and doesn't follow it; Attach can, later. CodeNotStarted when it
// could not be started. As with Exec, it is started only once.
func (c *Client) Start(ctx context.Context, spec ExecSpec) error {
	spec.Detach = true
	if spec.ID == "" {
		spec.ID = NewID()
	}
	var at Attached
	var o start
	err := c.persist(ctx, nil, func(conn net.Conn) (bool, error) {
		if err := o.prepare(ctx, c); err != nil {
			return false, err
		}
		return false, exchange(conn, bufio.NewReader(conn), OpExec, o.agent, ExecRequest{Spec: spec}, &at)
	})
	if err != nil {
		return err
	}
	if at.Exit != nil && at.Exit.Error != "" {
		return Errorf(CodeNotStarted, "%s", Clean(at.Exit.Error))
	}
	return nil
}

// maxSessions bounds the commands that an agent may name, several times over what one
// keeps: of two bytes each, a message's would take 40 MiB here.
const maxSessions = 1024

// Sessions lists what the agent knows, oldest first, without environments and
// with long argument lists cut.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) {
	var answer []json.RawMessage
	if err := c.call(ctx, OpSessions, nil, &answer); err != nil {
		return nil, err
	}
	if len(answer) > maxSessions {
		return nil, Errorf(CodeProtocol, "the guest's agent names %d commands, which can't be", len(answer))
	}
	list := make([]Session, len(answer))
	for i := range list {
		if err := json.Unmarshal(answer[i], &list[i]); err != nil {
			return nil, Errorf(CodeProtocol, "the agent's answer can't be read: %v", err)
		}
		for j, arg := range list[i].Spec.Argv {
			list[i].Spec.Argv[j] = Clean(arg)
		}
		if st := list[i].Exit; st != nil {
			st.Error, st.Signal = Clean(st.Error), Clean(st.Signal)
		}
	}
	return list, nil
}

// Signal sends a signal ("TERM") to a running session's process group, or to the
// foreground group of its terminal. CodeConflict when it has ended.
func (c *Client) Signal(ctx context.Context, id, signal string) error {
	return c.call(ctx, OpSignal, SignalRequest{id, signal}, nil)
}

// Forget drops a session that has ended. It succeeds for an unknown session; one that runs
// is CodeConflict.
func (c *Client) Forget(ctx context.Context, id string) error {
	return c.call(ctx, OpForget, SessionRequest{id}, nil)
}

// Watch calls notice for every notice of the guest, on one stream, until that breaks or ctx
// ends, and returns why; it doesn't dial again. On each new stream the guest repeats the
// latest notices. It waits for notice to return before it does what it announced.
func (c *Client) Watch(ctx context.Context, notice func(Notice)) error {
	ctx = WithControl(ctx)
	conn, err := c.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer bind(ctx, conn)()
	r := bufio.NewReader(conn)
	if err := exchange(conn, r, OpWatch, "", nil, nil); err != nil {
		return because(ctx, err)
	}
	for frames := NewFrameReader(r); ; {
		f, err := frames.Next()
		if err != nil {
			return because(ctx, err)
		}
		var n Notice
		if f.Type != FrameNotice || json.Unmarshal(f.Data, &n) != nil {
			return Errorf(CodeProtocol, "the guest sent no notice but a frame of type %d", f.Type)
		}
		notice(Notice{Kind: Clean(n.Kind), Text: Clean(n.Text)})
		if _, err := conn.Write(AppendFrame(nil, Frame{Type: FrameNoticeAck, Offset: f.Offset})); err != nil {
			return because(ctx, err)
		}
	}
}

// Echo returns a stream on which the agent sends back what it gets. It is for measuring
// the channel, and for telling a slow channel from a slow guest.
func (c *Client) Echo(ctx context.Context) (net.Conn, error) {
	conn, _, err := Open(ctx, c.Dial, OpEcho, nil, nil)
	return conn, err
}

// Open begins an operation on a new stream, which isn't tied to ctx. What follows the
// answer is read from r.
func Open(ctx context.Context, dial Dialer, op string, req, answer any) (conn net.Conn, r *bufio.Reader, err error) {
	if conn, err = dial(ctx); err != nil {
		return nil, nil, err
	}
	defer bind(ctx, conn)()
	r = bufio.NewReaderSize(conn, FrameHeader+BulkData)
	if err := exchange(conn, r, op, "", req, answer); err != nil {
		_ = conn.Close()
		return nil, nil, because(ctx, err)
	}
	return conn, r, nil
}

// NewID returns a new session id.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// control marks the context of a dial for an operation that keeps the VM.
type control struct{}

// WithControl marks the streams that are dialled in a context as control streams.
func WithControl(ctx context.Context) context.Context {
	return context.WithValue(ctx, control{}, true)
}

// IsControl reports to a Dialer whether the stream is for managing the VM, such as a health
// check, and not for what users run in it. Such streams have places that users' streams
// can't take, and come before them.
func IsControl(ctx context.Context) bool {
	is, _ := ctx.Value(control{}).(bool)
	return is
}

// call does an operation of one request and one response. When the stream breaks it is
// repeated, which does no harm.
func (c *Client) call(ctx context.Context, op string, body, answer any) error {
	ctx = WithControl(ctx)
	return c.persist(ctx, nil, func(conn net.Conn) (bool, error) {
		return false, exchange(conn, bufio.NewReader(conn), op, "", body, answer)
	})
}

// exchange speaks the first message of a stream and reads the answer to it.
func exchange(conn net.Conn, r *bufio.Reader, op, agent string, body, answer any) error {
	req, err := appendRequest(nil, op, agent, body)
	if err != nil {
		return Errorf(CodeInvalid, "%v", err)
	}
	if _, err := conn.Write(req); err != nil {
		// The agent may have refused without reading everything: read its answer.
		if e, ok := errors.AsType[*Error](ReadResponse(r, answer)); ok {
			return cleanError(e)
		}
		return err
	}
	if err := ReadResponse(r, answer); err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return cleanError(e)
		}
		return fmt.Errorf("the guest's answer: %w", err)
	}
	return nil
}

// Pauses between two tries after a broken stream; they are short again after a try that
// made progress.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
)

// persist calls do with one stream after the other until it succeeds, fails with an *Error,
// or ctx ends. do reports whether it made progress. broken, unless nil, is called with each
// error after which persist goes on.
func (c *Client) persist(ctx context.Context, broken func(error), do func(net.Conn) (bool, error)) error {
	pause := firstPause
	for first := true; ; first = false {
		conn, err := c.Dial(ctx)
		if err != nil && (first || c.Final != nil && c.Final(err)) {
			return err
		}
		if err == nil {
			var progress bool
			if progress, err = oneStream(ctx, conn, do); progress {
				pause = firstPause
			}
			if err == nil {
				return nil
			}
			if _, ok := errors.AsType[*Error](err); ok {
				return err
			}
		}
		if ctx.Err() != nil {
			return because(ctx, err)
		}
		if broken != nil {
			broken(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return because(ctx, err)
		}
		pause = min(2*pause, maxPause)
	}
}

func oneStream(ctx context.Context, conn net.Conn, do func(net.Conn) (bool, error)) (bool, error) {
	defer conn.Close()
	defer bind(ctx, conn)()
	return do(conn)
}

// bind breaks the stream when ctx ends, until unbind is called.
func bind(ctx context.Context, conn net.Conn) (unbind func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// because adds the last error of a stream to the error of a ctx that has ended.
func because(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if err == nil || errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w (the guest's last word: %v)", context.Cause(ctx), err)
}

// maxText bounds a text of the guest that is shown to a person, in bytes.
const maxText = 1024

// Clean makes a text of the guest fit to be shown on a terminal.
func Clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

func cleanError(e *Error) *Error { return &Error{Code: Clean(e.Code), Message: Clean(e.Message)} }

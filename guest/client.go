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

// Client asks the agent for things. All methods may be called side by side.
//
// The first dial's error is returned as it is. A stream that breaks after that
// is taken up again on a new one until ctx ends, whatever the operation. The
// agent's own errors, and what is said of an agent that breaks the protocol, are
// *Error. The client believes nothing the guest says without bounds; texts of
// the guest are freed of control characters.
type Client struct {
	Dial Dialer
	// Final reports whether a dial error met while taking up a broken stream
	// means that trying again is pointless (the VM has ended). Nil: never.
	Final func(error) bool
}

// Configure makes the booted guest the VM of this identity and returns when its
// root is assembled. Repeated with the same identity it returns the same
// answer; another identity is CodeConflict. A zero Time is replaced by this
// host's at the moment it is sent: a booting guest may keep it waiting.
func (c *Client) Configure(ctx context.Context, id Identity) (Ready, error) {
	var r Ready
	err := c.call(ctx, OpConfigure, leaving{id}, &r)
	r.Agent, r.Init = clean(r.Agent), clean(r.Init)
	for i := range r.Stages {
		r.Stages[i].Name = clean(r.Stages[i].Name)
	}
	r.BootID = clean(r.BootID)
	r.Seen.Hostname, r.Seen.MachineID, r.Seen.MAC = clean(r.Seen.Hostname), clean(r.Seen.MachineID), clean(r.Seen.MAC)
	for i := range r.Renewed {
		r.Renewed[i] = clean(r.Renewed[i])
	}
	return r, err
}

// Freeze brings a booted guest that has no identity yet to its freeze point, or
// makes a running one stand still, and returns when it does. A template may be
// made of it when the host has hung up and the console has said FrozenLine; a
// guest restored from that waits for Configure.
func (c *Client) Freeze(ctx context.Context) error { return c.call(ctx, OpFreeze, nil, nil) }

// leaving is an Identity on its way.
type leaving struct{ Identity }

// MarshalJSON is the last moment before the identity leaves.
func (s leaving) MarshalJSON() ([]byte, error) {
	if s.Time.IsZero() {
		s.Time = time.Now()
	}
	return json.Marshal(s.Identity)
}

// Health asks for a sign of life.
func (c *Client) Health(ctx context.Context) (Health, error) {
	return c.health(ctx, HealthRequest{})
}

func (c *Client) health(ctx context.Context, req HealthRequest) (Health, error) {
	var h Health
	err := c.call(ctx, OpHealth, req, &h)
	h.Agent, h.Init = clean(h.Agent), clean(h.Init)
	return h, err
}

// Clock sets the guest's wall clock.
func (c *Client) Clock(ctx context.Context, now time.Time) error {
	return c.call(ctx, OpClock, now, nil)
}

// clockTolerance is how far a guest's clock may be off before it is set. A step
// backwards hurts programs more than a few milliseconds do.
const clockTolerance = 10 * time.Millisecond

// What a round trip takes can't be told from an offset, so the best of some
// readings of the guest's clock counts, and a slow one proves nothing. A guest that
// has just started may be too busy for good ones, and is asked again, ever less often.
const (
	clockReadings = 3
	clockGoodTrip = 50 * time.Millisecond
	clockPause    = 250 * time.Millisecond
	clockMaxPause = 10 * time.Second
)

// SyncClock compares the guest's wall clock with this host's and sets it when it is
// surely off, until a good reading finds it right or ctx ends. It returns how far it
// was off at first, positive when ahead.
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
			// The order itself may take long to get there, so its effect is looked at.
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

// Start starts a command and follows nothing: Attach does, later. A command
// that could not be started is CodeNotStarted.
func (c *Client) Start(ctx context.Context, spec ExecSpec) error {
	spec.Detach = true
	if spec.ID == "" {
		spec.ID = NewID()
	}
	var at Attached
	if err := c.call(ctx, OpExec, ExecRequest{Spec: spec}, &at); err != nil {
		return err
	}
	if at.Exit != nil && at.Exit.Error != "" {
		return Errorf(CodeNotStarted, "%s", clean(at.Exit.Error))
	}
	return nil
}

// Sessions lists what the agent knows, oldest first, without environments and
// with long argument lists cut.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) {
	var list []Session
	err := c.call(ctx, OpSessions, nil, &list)
	for i := range list {
		for j, arg := range list[i].Spec.Argv {
			list[i].Spec.Argv[j] = clean(arg)
		}
		if st := list[i].Exit; st != nil {
			st.Error, st.Signal = clean(st.Error), clean(st.Signal)
		}
	}
	return list, err
}

// Signal sends a signal ("TERM") to a running session's process group, or to the
// foreground group of its terminal. CodeConflict when it has ended.
func (c *Client) Signal(ctx context.Context, id, signal string) error {
	return c.call(ctx, OpSignal, SignalRequest{id, signal}, nil)
}

// Forget drops an ended session. One that is unknown is forgotten already; one
// that runs is CodeConflict.
func (c *Client) Forget(ctx context.Context, id string) error {
	return c.call(ctx, OpForget, SessionRequest{id}, nil)
}

// Watch calls notice for everything the guest tells, on one stream, until that
// stream breaks or ctx ends, and returns why; it doesn't dial again. What was
// told in the recent past is told again on every new stream. The guest waits for
// notice to return before it does what it announced.
func (c *Client) Watch(ctx context.Context, notice func(Notice)) error {
	conn, err := c.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer bind(ctx, conn)()
	r := bufio.NewReader(conn)
	if err := exchange(conn, r, OpWatch, nil, nil); err != nil {
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
		notice(Notice{Kind: clean(n.Kind), Text: clean(n.Text)})
		if _, err := conn.Write(AppendFrame(nil, Frame{Type: FrameNoticeAck, Offset: f.Offset})); err != nil {
			return because(ctx, err)
		}
	}
}

// Echo returns a stream on which the agent sends back what it gets: the cost of
// the bare channel, for measurements and for telling a slow channel from a slow
// guest.
func (c *Client) Echo(ctx context.Context) (net.Conn, error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	unbind := bind(ctx, conn)
	defer unbind()
	if err := exchange(conn, bufio.NewReader(conn), OpEcho, nil, nil); err != nil {
		_ = conn.Close()
		return nil, because(ctx, err)
	}
	return conn, nil
}

// NewID returns a fresh session id.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// call does an operation of one request and one response. Every such operation
// may be repeated, so a broken stream is no reason to give up.
func (c *Client) call(ctx context.Context, op string, body, answer any) error {
	return c.persist(ctx, nil, func(conn net.Conn) (bool, error) {
		return false, exchange(conn, bufio.NewReader(conn), op, body, answer)
	})
}

// exchange speaks the first message of a stream and reads the answer to it.
func exchange(conn net.Conn, r *bufio.Reader, op string, body, answer any) error {
	req, err := AppendRequest(nil, op, body)
	if err != nil {
		return Errorf(CodeInvalid, "%v", err)
	}
	if _, err := conn.Write(req); err != nil {
		// The agent may have refused without reading everything: hear it.
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

// Between tries to take up a broken stream; a try that got anywhere counts as
// the first again.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
)

// persist runs do on one stream after the other until it succeeds, fails with
// an *Error, or ctx ends. do says whether it got anywhere. broken, which may be
// nil, is told of each failure that isn't the end.
func (c *Client) persist(ctx context.Context, broken func(error), do func(net.Conn) (bool, error)) error {
	pause := firstPause
	for first := true; ; first = false {
		conn, err := c.Dial(ctx)
		if err != nil && (first || c.Final != nil && c.Final(err)) {
			return err
		}
		if err == nil {
			var progress bool
			if progress, err = once(ctx, conn, do); progress {
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

func once(ctx context.Context, conn net.Conn, do func(net.Conn) (bool, error)) (bool, error) {
	defer conn.Close()
	defer bind(ctx, conn)()
	return do(conn)
}

// bind makes the end of ctx break the stream. The function it returns unbinds.
func bind(ctx context.Context, conn net.Conn) (unbind func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// because adds what was last seen to the end of ctx, when that is why.
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

// clean makes a text of the guest fit to be shown on a terminal.
func clean(s string) string {
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

func cleanError(e *Error) *Error { return &Error{Code: clean(e.Code), Message: clean(e.Message)} }

// Package agent serves the guest protocol: it takes a stream, reads its request and calls
// the code that does the work. Package session keeps sessions; what has to do with booting
// is passed in as functions.
//
// It knows nothing of what carries the streams or how a guest boots.
package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/dial"
	"banger/guest/agent/session"
)

// requestTimeout bounds how long a stream may take to say what it wants.
const requestTimeout = 30 * time.Second

// Server answers the host. Set the fields before Serve; a nil function makes
// its operation CodeUnavailable, unless it says otherwise.
type Server struct {
	Version  string // the agent's build version
	Sessions *session.Table
	// Configure makes the guest this VM. It is called once at a time, must answer
	// a repeated identity as it did the first time, and isn't cancelled when the
	// host's stream breaks.
	Configure func(ctx context.Context, id guest.Identity) (guest.Ready, error)
	// Freeze brings the guest to its freeze point, before Configure.
	Freeze func() error
	// Configured reports whether it was done. Until then there is no root to run
	// commands in and exec is refused. Nil: there always is.
	Configured func() bool
	// InitState says how far the image's init is, as guest.Health.Init.
	InitState func() string
	// Shutdown asks the image's init for "poweroff" or "reboot" and returns when asked.
	Shutdown func(ctx context.Context, verb string) error
	// SetClock sets the wall clock. Nil: the kernel's.
	SetClock func(now time.Time) error
	// Now reads the wall clock. Nil: time.Now.
	Now func() time.Time

	// Callers are connections that came to listeners of clients. The zero value will do.
	Callers dial.Desk

	configuring sync.Mutex
	streams     atomic.Int64 // how many streams of clients use the guest
	watchers    watchers
	life        life
}

// life identifies this agent among those before and after it. When the guest becomes a
// VM, it begins anew: the agent may be a copy from a template.
type life struct {
	mu    sync.Mutex // guards what follows
	name  string
	vm    string // its Identity.ID
	began time.Time
}

// now returns the incarnation, and since when it takes requests.
func (l *life) now() (name string, began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.name == "" {
		l.name, l.began = guest.NewID(), time.Now()
	}
	return l.name, l.began
}

// become is called when the guest is this VM.
func (l *life) become(vm string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.vm != vm {
		l.name, l.vm, l.began = guest.NewID(), vm, time.Now()
	}
}

// Serve answers streams until the listener fails, and returns why it did.
func (s *Server) Serve(l net.Listener) error {
	s.life.now()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go s.stream(conn)
	}
}

// Notify tells all hosts that watch, and those that come later. It returns when all that
// watch have confirmed it or ctx ends. A guest calls it before it ends.
func (s *Server) Notify(ctx context.Context, n guest.Notice) error { return s.watchers.tell(ctx, n) }

// stream serves one operation. It ignores errors of the stream: the host opens another.
func (s *Server) stream(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	req, err := guest.ReadRequest(r)
	if err != nil {
		if guest.CodeOf(err) == guest.CodeProtocol {
			_ = respond(conn, guest.Version, nil, err)
		}
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	version, err := req.Accept()
	if own, _ := s.life.now(); err == nil && req.Agent != "" && req.Agent != own {
		err = guest.Errorf(guest.CodeReplaced, "the agent that this request is for was replaced")
	}
	if err != nil {
		_ = respond(conn, guest.Version, nil, err)
		return
	}
	switch req.Op {
	case guest.OpDial, guest.OpListen, guest.OpAccept:
		s.streams.Add(1)
		defer s.streams.Add(-1)
		s.connection(conn, r, version, req)
	case guest.OpExec:
		s.streams.Add(1)
		defer s.streams.Add(-1)
		s.exec(conn, r, version, req.Body)
	case guest.OpOutput:
		s.streams.Add(1)
		defer s.streams.Add(-1)
		s.output(conn, r, version, req.Body)
	case guest.OpWatch:
		if respond(conn, version, nil, nil) == nil {
			s.watchers.serve(conn, r)
		}
	case guest.OpEcho:
		s.streams.Add(1)
		defer s.streams.Add(-1)
		if respond(conn, version, nil, nil) == nil {
			_, _ = io.Copy(conn, r) // ends with the stream
		}
	default:
		body, err := s.answer(req)
		_ = respond(conn, version, body, err)
	}
}

func respond(conn net.Conn, version int, body any, err error) error {
	raw, err := guest.AppendResponse(nil, version, body, err)
	if err == nil {
		_, err = conn.Write(raw)
	}
	return err
}

func (s *Server) exec(conn net.Conn, r *bufio.Reader, version int, body json.RawMessage) {
	var req guest.ExecRequest
	err := decode(body, &req)
	if err == nil && s.Configured != nil && !s.Configured() {
		err = guest.Errorf(guest.CodeUnavailable, "the guest isn't configured yet: it has no root to run commands in")
	}
	if err != nil {
		_ = respond(conn, version, nil, err)
		return
	}
	_ = s.Sessions.Exec(conn, r, version, req)
}

func (s *Server) output(conn net.Conn, r *bufio.Reader, version int, body json.RawMessage) {
	var req guest.OutputRequest
	if err := decode(body, &req); err != nil {
		_ = respond(conn, version, nil, err)
		return
	}
	_ = s.Sessions.Output(conn, r, version, req)
}

// answer does an operation that is one request and one response.
func (s *Server) answer(req guest.Request) (any, error) {
	switch req.Op {
	case guest.OpConfigure:
		return s.configure(req.Body)
	case guest.OpFreeze:
		if s.Freeze == nil {
			return nil, unavailable("freeze")
		}
		return nil, s.Freeze()
	case guest.OpHealth:
		var b guest.HealthRequest
		if len(req.Body) > 0 { // older clients sent none
			if err := decode(req.Body, &b); err != nil {
				return nil, err
			}
		}
		return s.health(b), nil
	case guest.OpClock:
		return nil, s.clock(req.Body)
	case guest.OpShutdown:
		return nil, s.shutdown(req.Body)
	case guest.OpPorts:
		return dial.Ports(), nil
	case guest.OpSessions:
		return s.Sessions.List(), nil
	case guest.OpSignal:
		var b guest.SignalRequest
		if err := decode(req.Body, &b); err != nil {
			return nil, err
		}
		return nil, s.Sessions.Signal(b.ID, b.Signal)
	case guest.OpForget:
		var b guest.SessionRequest
		if err := decode(req.Body, &b); err != nil {
			return nil, err
		}
		return nil, s.Sessions.Forget(b.ID)
	}
	return nil, guest.Errorf(guest.CodeInvalid, "the agent knows no operation %q", req.Op)
}

func (s *Server) configure(body json.RawMessage) (any, error) {
	var id guest.Identity
	if err := decode(body, &id); err != nil {
		return nil, err
	}
	if s.Configure == nil {
		return nil, unavailable("configure")
	}
	s.configuring.Lock()
	defer s.configuring.Unlock()
	ready, err := s.Configure(context.Background(), id)
	if err == nil {
		s.life.become(id.ID)
	}
	return ready, err
}

func (s *Server) health(req guest.HealthRequest) guest.Health {
	h := guest.Health{Agent: s.Version, Configured: s.Configured == nil || s.Configured(), Time: time.Now(), Sessions: s.Sessions.Len(), Streams: int(s.streams.Load())}
	if s.Now != nil {
		h.Time = s.Now()
	}
	var began time.Time
	h.Incarnation, began = s.life.now()
	h.ServingMS = time.Since(began).Milliseconds()
	if s.InitState != nil && !req.NoInit {
		h.Init = s.InitState()
	}
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) == nil {
		h.UptimeMS = up.Nano() / 1e6
	}
	return h
}

func (s *Server) clock(body json.RawMessage) error {
	var now time.Time
	if err := decode(body, &now); err != nil {
		return err
	}
	if s.SetClock != nil {
		return s.SetClock(now)
	}
	ts := unix.NsecToTimespec(now.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

func (s *Server) shutdown(body json.RawMessage) error {
	var b guest.ShutdownRequest
	if err := decode(body, &b); err != nil {
		return err
	}
	if b.Verb != "poweroff" && b.Verb != "reboot" {
		return guest.Errorf(guest.CodeInvalid, "no way to shut down is called %q", b.Verb)
	}
	if s.Shutdown == nil {
		return unavailable("shutdown")
	}
	return s.Shutdown(context.Background(), b.Verb)
}

func unavailable(op string) error {
	return guest.Errorf(guest.CodeUnavailable, "this agent can't %s", op)
}

func decode(body json.RawMessage, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return guest.Errorf(guest.CodeInvalid, "the request can't be read: %v", err)
	}
	return nil
}

// Package agent serves the guest protocol: it takes a stream, reads its request
// and hands it to whoever does the work. Sessions are kept by package session;
// all that has to do with booting is passed in as functions.
//
// It refuses to know what carries the streams and how a guest boots.
package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/agent/session"
	"banger/guest"
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

	configuring sync.Mutex
	watchers    watchers
}

// Serve answers streams until the listener fails, and returns why it did.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go s.stream(conn)
	}
}

// Notify tells every watching host, and every one that comes later, and returns
// when all who watch have confirmed it or ctx ends. A guest about to end calls
// it before it does.
func (s *Server) Notify(ctx context.Context, n guest.Notice) error { return s.watchers.tell(ctx, n) }

// stream serves one operation. Errors that matter were told to the host; the
// others are a broken stream, which is the host's to take up again.
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
	if err != nil {
		_ = respond(conn, guest.Version, nil, err)
		return
	}
	switch req.Op {
	case guest.OpExec:
		s.exec(conn, r, version, req.Body)
	case guest.OpWatch:
		if respond(conn, version, nil, nil) == nil {
			s.watchers.serve(conn, r)
		}
	case guest.OpEcho:
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
		if len(req.Body) > 0 { // clients of before sent none
			if err := decode(req.Body, &b); err != nil {
				return nil, err
			}
		}
		return s.health(b), nil
	case guest.OpClock:
		return nil, s.clock(req.Body)
	case guest.OpShutdown:
		return nil, s.shutdown(req.Body)
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
	return s.Configure(context.Background(), id)
}

func (s *Server) health(req guest.HealthRequest) guest.Health {
	h := guest.Health{Agent: s.Version, Configured: s.Configured == nil || s.Configured(), Time: time.Now(), Sessions: s.Sessions.Len()}
	if s.Now != nil {
		h.Time = s.Now()
	}
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

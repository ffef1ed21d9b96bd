// Package agent serves the guest protocol: it takes a stream, reads its request
// and hands it to whoever does the work. Sessions are kept by package session;
// all that has to do with booting is passed in as functions.
//
// It refuses to know what carries the streams and how a guest boots.
package agent

import (
	"context"
	"net"
	"time"

	"banger/agent/session"
	"banger/guest"
)

// Server answers the host. Set the fields before Serve; a nil function makes
// its operation CodeUnavailable.
type Server struct {
	Version  string // the agent's build version
	Sessions *session.Table
	// Configure makes the guest this VM. It is called once at a time, must answer
	// a repeated identity as it did the first time, and isn't cancelled when the
	// host's stream breaks.
	Configure func(ctx context.Context, id guest.Identity) (guest.Ready, error)
	// Configured reports whether it was done. Until then there is no root to run
	// commands in: exec is refused.
	Configured func() bool
	// InitState says how far the image's init is, as guest.Health.Init.
	InitState func() string
	// Shutdown asks the image's init for "poweroff" or "reboot" and returns when asked.
	Shutdown func(ctx context.Context, verb string) error
	// SetClock sets the wall clock.
	SetClock func(now time.Time) error
}

// Serve answers streams until the listener fails.
func (s *Server) Serve(l net.Listener) error { return nil }

// Notify tells every watching host, and every one that comes later, and returns
// when all who watch have confirmed it or ctx ends. A guest about to end calls
// it before it does.
func (s *Server) Notify(ctx context.Context, n guest.Notice) error { return nil }

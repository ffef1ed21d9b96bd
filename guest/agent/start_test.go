package agent_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
)

// vanishing is a client whose first stream breaks when its request was read: by an
// agent that has gone since, or by one whose answer was lost.
func vanishing(t *testing.T, c *guest.Client, first func(conn net.Conn, req guest.Request)) *guest.Client {
	t.Helper()
	streams := 0
	return &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		if streams++; streams > 1 {
			return c.Dial(ctx)
		}
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			req, err := guest.ReadRequest(bufio.NewReader(far))
			if err != nil {
				t.Errorf("the request: %v", err)
			}
			first(far, req)
		}()
		return near, nil
	}}
}

// A command whose answer never came may have run: another agent doesn't run it again.
func TestCommandRunsOnce(t *testing.T) {
	made := filepath.Join(t.TempDir(), "made")
	spec := guest.ExecSpec{Argv: sh("echo x >>" + made)}
	for name, run := range map[string]func(*guest.Client, guest.ExecSpec) error{
		"exec": func(c *guest.Client, spec guest.ExecSpec) error {
			_, err := c.Exec(deadline(t), spec, guest.IO{})
			return err
		},
		"start": func(c *guest.Client, spec guest.ExecSpec) error { return c.Start(deadline(t), spec) },
	} {
		t.Run(name+", the agent was replaced", func(t *testing.T) {
			fresh := make(chan *guest.Client, 1)
			c := vanishing(t, &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
				next := <-fresh
				fresh <- next
				return next.Dial(ctx)
			}}, func(net.Conn, guest.Request) { fresh <- openAgent(t, &agent.Server{}) })
			if err := run(c, spec); guest.CodeOf(err) != guest.CodeLost {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(made); err == nil {
				t.Error("it ran again")
			}
		})
		t.Run(name+", the agent is replaced while it is asked", func(t *testing.T) {
			one := openAgent(t, &agent.Server{})
			health(t, one)
			other := openAgent(t, &agent.Server{})
			asked := false
			c := vanishing(t, &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
				if asked = !asked; asked { // for the try itself; the question of who it is comes second
					return other.Dial(ctx)
				}
				return one.Dial(ctx)
			}}, func(net.Conn, guest.Request) {})
			if err := run(c, spec); guest.CodeOf(err) != guest.CodeReplaced {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(made); err == nil {
				t.Error("it ran again")
			}
		})
		t.Run(name+", the answer was lost", func(t *testing.T) {
			defer os.Remove(made)
			one := openAgent(t, &agent.Server{})
			began := health(t, one)
			c := vanishing(t, one, func(_ net.Conn, req guest.Request) { // it arrived, and ran
				conn, err := one.Dial(deadline(t))
				must(t, err)
				defer conn.Close()
				wire, err := guest.AppendRequest(nil, req.Op, req.Body)
				must(t, err)
				_, err = conn.Write(wire)
				must(t, err)
				must(t, guest.ReadResponse(bufio.NewReader(conn), nil))
			})
			must(t, run(c, spec))
			eventually(t, "it ran", func() bool { b, err := os.ReadFile(made); return err == nil && len(b) > 0 })
			if b, err := os.ReadFile(made); err != nil || string(b) != "x\n" {
				t.Errorf("it ran more often than once: %q, %v", b, err)
			}
			if now := health(t, one); now.Incarnation != began.Incarnation {
				t.Errorf("the agent is another: %+v", now)
			}
		})
	}
}

// health asks until the agent has been there for a moment, so that what follows is
// surely later than its start, however long an answer takes on a busy host.
func health(t *testing.T, c *guest.Client) (h guest.Health) {
	t.Helper()
	eventually(t, "the agent has served a while", func() bool {
		var err error
		h, err = c.Health(deadline(t))
		return err == nil && h.ServingMS > 200
	})
	return h
}

// An agent of before doesn't say who it is: it is asked again, as its clients do.
func TestOldAgentIsAskedAgain(t *testing.T) {
	one := openAgent(t, &agent.Server{})
	old := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			r := bufio.NewReader(far)
			req, err := guest.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Op == guest.OpHealth {
				wire, _ := guest.AppendResponse(nil, guest.Version, map[string]any{"agent": "old"}, nil)
				_, _ = far.Write(wire)
				return
			}
			if req.Agent != "" {
				t.Errorf("an old agent was sent an incarnation: %q", req.Agent)
			}
			conn, err := one.Dial(ctx)
			if err != nil {
				return
			}
			defer conn.Close()
			wire, _ := guest.AppendRequest(nil, req.Op, req.Body)
			_, _ = conn.Write(wire)
			go func() { _, _ = io.Copy(conn, r) }()
			_, _ = io.Copy(far, conn)
		}()
		return near, nil
	}}
	c := vanishing(t, old, func(net.Conn, guest.Request) {})
	if st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: []string{"true"}}, guest.IO{}); err != nil || st.Code != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

// A guest that was copied with its memory is another one when it is another VM.
func TestIncarnations(t *testing.T) {
	c := openAgent(t, &agent.Server{Sessions: &session.Table{}, Configure: func(context.Context, guest.Identity) (guest.Ready, error) {
		return guest.Ready{}, nil
	}})
	h, err := c.Health(deadline(t))
	must(t, err)
	seen := map[string]bool{h.Incarnation: true}
	for _, id := range []string{"a", "b"} {
		for range 2 {
			_, err := c.Configure(deadline(t), guest.Identity{ID: id})
			must(t, err)
			h, err := c.Health(deadline(t))
			must(t, err)
			seen[h.Incarnation] = true
			if h.ServingMS > time.Minute.Milliseconds() {
				t.Errorf("%+v", h)
			}
		}
	}
	if len(seen) != 3 || seen[""] {
		t.Errorf("one agent that became two VMs had %d incarnations: %v", len(seen), seen)
	}
}

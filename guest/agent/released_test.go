package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
)

var record = flag.Bool("record", false, "record the conversations of the current protocol version anew; only before its release")

// recorded is one stream as a client and an agent of a released protocol version
// spoke it.
type recorded struct {
	Op     string `json:"op"`
	Client []byte `json:"client"` // what it said before it heard anything
	Agent  []byte `json:"agent"`
}

// talks are the conversations there is a recording of: what a client does, and
// what it must find. The first of a name's streams is played first.
var talks = []struct {
	name string
	do   func(context.Context, *guest.Client) (any, error)
	want string
}{
	{"configure", func(ctx context.Context, c *guest.Client) (any, error) {
		r, err := c.Configure(ctx, guest.Identity{ID: "0123456789ab", Hostname: "web", MachineID: "0123456789abcdef0123456789abcdef", Entropy: make([]byte, 32)})
		return r.Agent + " " + r.Init, err
	}, "released /sbin/init"},
	{"health", func(ctx context.Context, c *guest.Client) (any, error) {
		h, err := c.Health(ctx)
		return fmt.Sprintf("%s %t %s", h.Agent, h.Configured, h.Init), err
	}, "released true running"},
	{"clock", func(ctx context.Context, c *guest.Client) (any, error) {
		return "set", c.Clock(ctx, time.Unix(1_800_000_000, 0))
	}, "set"},
	{"exec", func(ctx context.Context, c *guest.Client) (any, error) {
		var out, errs bytes.Buffer
		st, err := c.Exec(ctx, guest.ExecSpec{ID: "00000000000000000000000000000001", Argv: sh("echo out; echo err >&2; exit 3")}, guest.IO{Stdout: &out, Stderr: &errs})
		return fmt.Sprint(st.Code, out.String(), errs.String()), err
	}, "3out\nerr\n"},
	{"exec with input", func(ctx context.Context, c *guest.Client) (any, error) {
		var out bytes.Buffer
		st, err := c.Exec(ctx, guest.ExecSpec{ID: "00000000000000000000000000000002", Argv: []string{"cat"}, Stdin: true},
			guest.IO{Stdin: bytes.NewReader([]byte("in and out")), Stdout: &out})
		return fmt.Sprint(st.Code, out.String()), err
	}, "0in and out"},
	{"no such command", func(ctx context.Context, c *guest.Client) (any, error) {
		st, err := c.Exec(ctx, guest.ExecSpec{ID: "00000000000000000000000000000003", Argv: []string{"no-such-command"}}, guest.IO{})
		return fmt.Sprint(st.Code, " ", st.Error), err
	}, "127 no-such-command: command not found"},
	{"start", func(ctx context.Context, c *guest.Client) (any, error) {
		return "started", c.Start(ctx, guest.ExecSpec{ID: "00000000000000000000000000000004", Argv: []string{"sleep", "300"}, Detach: true})
	}, "started"},
	{"sessions", func(ctx context.Context, c *guest.Client) (any, error) {
		list, err := c.Sessions(ctx)
		return fmt.Sprint(len(list), list[0].Spec.Argv), err
	}, "1 [sleep 300]"},
	{"signal", func(ctx context.Context, c *guest.Client) (any, error) {
		return "sent", c.Signal(ctx, "00000000000000000000000000000004", "KILL")
	}, "sent"},
	{"follow", func(ctx context.Context, c *guest.Client) (any, error) {
		st, err := c.Attach(ctx, "00000000000000000000000000000004", guest.IO{})
		return st.Signal, err
	}, "KILL"},
	{"forget", func(ctx context.Context, c *guest.Client) (any, error) {
		return "forgotten", c.Forget(ctx, "00000000000000000000000000000004")
	}, "forgotten"},
	{"no such session", func(ctx context.Context, c *guest.Client) (any, error) {
		err := c.Signal(ctx, "00000000000000000000000000000009", "TERM")
		return guest.CodeOf(err), nil
	}, guest.CodeNotFound},
	{"shutdown", func(ctx context.Context, c *guest.Client) (any, error) {
		return "asked", c.Shutdown(ctx, "poweroff")
	}, "asked"},
}

// released is an agent that says of itself what recordings say.
func released() *agent.Server {
	return &agent.Server{
		Version: "released", Sessions: &session.Table{},
		Configure: func(context.Context, guest.Identity) (guest.Ready, error) {
			return guest.Ready{Agent: "released", Init: "/sbin/init"}, nil
		},
		InitState: func() string { return "running" },
		SetClock:  func(time.Time) error { return nil },
		Shutdown:  func(context.Context, string) error { return nil },
	}
}

func recording(version int) string {
	return filepath.Join("testdata", "released", fmt.Sprintf("%d.json", version))
}

func recordings(t *testing.T, version int) (all map[string][]recorded) {
	t.Helper()
	raw, err := os.ReadFile(recording(version))
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// VMs outlive upgrades: today's client understands the agents of every protocol
// version that is still spoken, as they were recorded. A change that fails here
// needs a new version, and this one's recording stays.
func TestReleasedAgents(t *testing.T) {
	if *record {
		rerecord(t)
	}
	for version := guest.MinVersion; version <= guest.Version; version++ {
		all := recordings(t, version)
		for _, talk := range talks {
			t.Run(fmt.Sprintf("version %d, %s", version, talk.name), func(t *testing.T) {
				streams := all[talk.name]
				if len(streams) == 0 {
					t.Fatal("there is no recording of it")
				}
				c := &guest.Client{Dial: func(context.Context) (net.Conn, error) {
					if len(streams) == 0 {
						return nil, io.ErrUnexpectedEOF
					}
					near, far := net.Pipe()
					go play(t, far, streams[0])
					streams = streams[1:]
					return near, nil
				}}
				got, err := talk.do(deadline(t), c)
				if err != nil || fmt.Sprint(got) != talk.want {
					t.Errorf("got %v, %v, want %q", got, err, talk.want)
				}
			})
		}
	}
}

// play is an old agent: it answers a request as it was recorded.
func play(t *testing.T, conn net.Conn, s recorded) {
	defer conn.Close()
	req, err := guest.ReadRequest(conn)
	if err != nil || req.Op != s.Op {
		t.Errorf("asked %q, %v; recorded was %q", req.Op, err, s.Op)
		return
	}
	if raw, err := guest.AppendRequest(nil, req.Op, req.Body); err == nil && req.Op == guest.OpExec {
		if _, err := io.CopyN(io.Discard, conn, int64(len(s.Client)-len(raw))); err != nil { // input
			t.Errorf("what comes with the request: %v", err)
			return
		}
	}
	gone := make(chan struct{})
	go func() { // what else the client says is heard
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn)
	}()
	if _, err := conn.Write(s.Agent); err != nil {
		t.Errorf("the client didn't hear it all: %v", err)
	}
	<-gone
}

// And today's agent understands the clients of every one of them: a daemon may
// be put back to an older version while VMs run.
func TestReleasedClients(t *testing.T) {
	for version := guest.MinVersion; version <= guest.Version; version++ {
		all := recordings(t, version)
		c := openAgent(t, released())
		for _, talk := range talks {
			for _, s := range all[talk.name] {
				conn, err := c.Dial(deadline(t))
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				if _, err := conn.Write(s.Client); err != nil {
					t.Fatal(err)
				}
				err = guest.ReadResponse(conn, nil)
				if want := talk.name == "no such session"; (err != nil) != want || want && guest.CodeOf(err) != guest.CodeNotFound {
					t.Errorf("version %d, %s: %v", version, talk.name, err)
				}
				for frames := guest.NewFrameReader(conn); s.Op == guest.OpExec && talk.name != "start"; {
					f, err := frames.Next()
					if err != nil {
						t.Fatalf("version %d, %s: %v", version, talk.name, err)
					}
					if f.Type == guest.FrameExit {
						break
					}
				}
				_ = conn.Close()
			}
		}
	}
}

// rerecord records the conversations with today's agent.
func rerecord(t *testing.T) {
	t.Helper()
	all := map[string][]recorded{}
	agent := openAgent(t, released())
	for _, talk := range talks {
		var taps []*tap
		c := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
			conn, err := agent.Dial(ctx)
			if err != nil {
				return nil, err
			}
			taps = append(taps, &tap{Conn: conn})
			return taps[len(taps)-1], nil
		}}
		if got, err := talk.do(deadline(t), c); err != nil || fmt.Sprint(got) != talk.want {
			t.Fatalf("%s: got %v, %v", talk.name, got, err)
		}
		for _, tp := range taps {
			tp.mu.Lock()
			req, err := guest.ReadRequest(bytes.NewReader(tp.out.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			if talk.name == "exec with input" && tp.first < len(tp.out.Bytes()) && !bytes.Contains(tp.out.Bytes()[:tp.first], []byte("in and out")) {
				t.Fatal("the input came after the answer this time: record again")
			}
			all[talk.name] = append(all[talk.name], recorded{req.Op, tp.out.Bytes()[:tp.first], tp.in.Bytes()})
			tp.mu.Unlock()
		}
	}
	raw, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	path := recording(guest.Version)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, path, string(raw)+"\n", 0o644)
}

// tap keeps what goes over a connection.
type tap struct {
	net.Conn
	mu      sync.Mutex
	in, out bytes.Buffer
	first   int // of out, before the first of in
}

func (c *tap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in.Len() == 0 {
		c.first = c.out.Len()
	}
	c.in.Write(p[:n])
	return n, err
}

func (c *tap) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.out.Write(p)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

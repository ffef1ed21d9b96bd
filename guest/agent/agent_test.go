package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/guest/agent/tool"
)

func TestMain(m *testing.M) {
	if os.Args[0] == tool.Name {
		os.Exit(tool.Main(os.Args))
	}
	os.Exit(m.Run())
}

// openAgent serves on a unix socket and returns a client of it.
func openAgent(t testing.TB, s *agent.Server) *guest.Client {
	t.Helper()
	if s.Sessions == nil {
		s.Sessions = &session.Table{}
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		<-served
	})
	return &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

func TestExec(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	dir := t.TempDir()
	write(t, dir+"/noexec", "#!/bin/sh\n", 0o644)
	write(t, dir+"/noshebang", "echo plain $1", 0o755)
	for _, tt := range []struct {
		name           string
		spec           guest.ExecSpec
		stdin          string
		want           guest.ExitStatus
		stdout, stderr string
	}{
		{name: "output and status", spec: guest.ExecSpec{Argv: sh("echo out; echo err >&2; exit 3")}, want: guest.ExitStatus{Code: 3}, stdout: "out\n", stderr: "err\n"},
		{name: "path lookup", spec: guest.ExecSpec{Argv: []string{"true"}}},
		{name: "killed", spec: guest.ExecSpec{Argv: sh("kill -9 $$")}, want: guest.ExitStatus{Code: 137, Signal: "KILL"}},
		{name: "not found", spec: guest.ExecSpec{Argv: []string{"no-such-command"}}, want: guest.ExitStatus{Code: 127, Error: "no-such-command: command not found"}},
		{name: "no such file", spec: guest.ExecSpec{Argv: []string{"/no/such"}}, want: guest.ExitStatus{Code: 127, Error: "/no/such: no such file or directory"}},
		{name: "not executable", spec: guest.ExecSpec{Argv: []string{dir + "/noexec"}}, want: guest.ExitStatus{Code: 126, Error: dir + "/noexec: permission denied"}},
		{name: "not executable in PATH", spec: guest.ExecSpec{Argv: []string{"noexec"}, Env: []string{"PATH=" + dir}}, want: guest.ExitStatus{Code: 126, Error: "noexec: permission denied"}},
		{name: "script without shebang", spec: guest.ExecSpec{Argv: []string{dir + "/noshebang", "x"}}, stdout: "plain x\n"},
		{name: "no user", spec: guest.ExecSpec{Argv: []string{"true"}, User: "nobody-here"}, want: guest.ExitStatus{Code: 126, Error: `no user "nobody-here" in this image`}},
		{name: "no directory", spec: guest.ExecSpec{Argv: []string{"true"}, Dir: "/no/dir"}, want: guest.ExitStatus{Code: 126, Error: "working directory: stat /no/dir: no such file or directory"}},
		{name: "directory", spec: guest.ExecSpec{Argv: []string{"pwd"}, Dir: "/usr"}, stdout: "/usr\n"},
		{name: "stdin", spec: guest.ExecSpec{Argv: []string{"cat"}, Stdin: true}, stdin: "a\x00b", stdout: "a\x00b"},
		{name: "no stdin", spec: guest.ExecSpec{Argv: []string{"cat"}}, stdin: "ignored"},
		{name: "stdin nobody reads", spec: guest.ExecSpec{Argv: []string{"true"}, Stdin: true}, stdin: strings.Repeat("x", 2<<20)},
		{name: "environment", spec: guest.ExecSpec{Argv: sh(`echo "$A $LANG"`), Env: []string{"A=1", "A=2"}}, stdout: "2 C.UTF-8\n"},
		// The tool is this program, which complains when it has no place to say what of it ran.
		{name: "tool", spec: guest.ExecSpec{Argv: []string{"true"}, Tool: "true", Env: []string{"GOCOVERDIR=" + t.TempDir()}}},
		{name: "grandchild keeps the pipe", spec: guest.ExecSpec{Argv: sh("sleep 60 & echo $! ; exit 7")}, want: guest.ExitStatus{Code: 7}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			got, err := c.Exec(deadline(t), tt.spec, guest.IO{Stdin: strings.NewReader(tt.stdin), Stdout: &out, Stderr: &errs})
			if err != nil {
				t.Fatal(err)
			}
			if got.TookUS = 0; got != tt.want {
				t.Errorf("status %+v, want %+v", got, tt.want)
			}
			if tt.name == "grandchild keeps the pipe" {
				kill(t, out.String())
				return
			}
			if out.String() != tt.stdout || errs.String() != tt.stderr {
				t.Errorf("wrote %q and %q, want %q and %q", &out, &errs, tt.stdout, tt.stderr)
			}
		})
	}
}

// The host wakes once for a command that ends at once; one that runs on in silence
// is answered all the same, and its signals wait for that.
func TestAnswerWaitsForAMoment(t *testing.T) {
	signals := make(chan string, 1)
	signals <- "TERM"
	c := openAgent(t, &agent.Server{})
	if st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: []string{"sleep", "60"}}, guest.IO{Signals: signals}); err != nil || st.Signal != "TERM" {
		t.Fatalf("%+v, %v", st, err)
	}
	var wrote atomic.Int64
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		_ = (&agent.Server{Sessions: &session.Table{Hold: time.Hour}}).Serve(countingListener{l, &wrote})
	}()
	c = &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}}
	if st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: []string{"true"}}, guest.IO{}); err != nil || st.Code != 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	if n := wrote.Load(); n != 1 {
		t.Errorf("the answer and the end came in %d writes", n)
	}
}

// countingListener counts what is written to its connections.
type countingListener struct {
	net.Listener
	wrote *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.wrote}, err
}

type countingConn struct {
	net.Conn
	wrote *atomic.Int64
}

func (c countingConn) Write(b []byte) (int, error) {
	c.wrote.Add(1)
	return c.Conn.Write(b)
}

func TestFinishedSessionsAreForgotten(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	ctx := deadline(t)
	for range 10 {
		if _, err := c.Exec(ctx, guest.ExecSpec{Argv: []string{"true"}}, guest.IO{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no session is left", func() bool { l, err := c.Sessions(ctx); return err == nil && len(l) == 0 })
	for range 70 { // nobody fetches these
		if err := c.Start(ctx, guest.ExecSpec{Argv: []string{"true"}}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "64 are kept", func() bool { l, err := c.Sessions(ctx); return err == nil && len(l) == 64 })
}

// TestBytesSurviveBrokenStreams cuts every stream after a random number of
// bytes in either direction, while much goes both ways.
func TestBytesSurviveBrokenStreams(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	health(t, c)
	cuts := flaky(c, 300<<10)
	in := make([]byte, 24<<20)
	rand.NewChaCha8([32]byte{1}).Read(in)
	var out bytes.Buffer
	st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: []string{"cat"}, Stdin: true}, guest.IO{Stdin: bytes.NewReader(in), Stdout: &out})
	if err != nil || st.Code != 0 {
		t.Fatal(st, err)
	}
	if !bytes.Equal(out.Bytes(), in) {
		t.Errorf("%d bytes came back changed, of %d", out.Len(), len(in))
	}
	t.Logf("%d streams were cut", cuts.Load())
	if cuts.Load() < 20 {
		t.Error("too few to show anything")
	}
}

// TestSmallThingsSurviveBrokenStreams cuts within the first kilobytes, where
// requests, answers, exits and signals are.
func TestSmallThingsSurviveBrokenStreams(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	health(t, c)
	cuts := flaky(c, 1500)
	for i := range 100 {
		var out bytes.Buffer
		signals := make(chan string, 1)
		near := guest.IO{Stdin: strings.NewReader("in"), Stdout: &out, Signals: signals}
		spec := guest.ExecSpec{Argv: sh("cat; echo ' out'; exit 5"), Stdin: true}
		want := guest.ExitStatus{Code: 5}
		if i%4 == 0 {
			spec.Argv = sh(`trap 'exit 5' USR1; cat; echo ' out'; while :; do sleep 0.01; done`)
			near.Stdout = writerFunc(func(p []byte) (int, error) {
				if out.Write(p); strings.HasSuffix(out.String(), "out\n") {
					signals <- "USR1"
				}
				return len(p), nil
			})
		}
		st, err := c.Exec(deadline(t), spec, near)
		if st.TookUS = 0; err != nil || st != want || out.String() != "in out\n" {
			t.Fatalf("%d: %+v, %v, %q", i, st, err, &out)
		}
	}
	t.Logf("%d streams were cut", cuts.Load())
}

func TestHundredMegabytes(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 200 MB")
	}
	c := openAgent(t, &agent.Server{})
	var count counter
	if st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: []string{"head", "-c", "100M", "/dev/zero"}}, guest.IO{Stdout: &count}); err != nil || st.Code != 0 || count != 100<<20 {
		t.Errorf("%+v, %v, %d bytes", st, err, count)
	}
	var out bytes.Buffer
	in := io.LimitReader(zeros{}, 100<<20)
	if st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: []string{"wc", "-c"}, Stdin: true}, guest.IO{Stdin: in, Stdout: &out}); err != nil || st.Code != 0 || out.String() != "104857600\n" {
		t.Errorf("%+v, %v, %q", st, err, &out)
	}
}

func TestDetachedSession(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	ctx := deadline(t)
	id := guest.NewID()
	// Writes three megabytes though nobody reads, and keeps a quarter of one.
	spec := guest.ExecSpec{ID: id, Argv: sh("head -c 3M /dev/zero; echo end"), SpoolKiB: 256}
	for range 2 { // the second start finds the first
		if err := c.Start(ctx, spec); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it ends", func() bool { l, _ := c.Sessions(ctx); return len(l) == 1 && l[0].Exit != nil })
	var out bytes.Buffer
	var gap int64
	st, err := c.Attach(ctx, id, guest.IO{Stdout: &out, Gap: func(_ string, n int64) { gap += n }})
	if err != nil || st.Code != 0 {
		t.Fatal(st, err)
	}
	if total := gap + int64(out.Len()); total != 3<<20+4 || !strings.HasSuffix(out.String(), "\x00end\n") || out.Len() > 256<<10 {
		t.Errorf("%d bytes kept and %d dropped", out.Len(), gap)
	}
	if err := c.Forget(ctx, id); err != nil {
		t.Error(err)
	}
	if _, err := c.Attach(ctx, id, guest.IO{}); guest.CodeOf(err) != guest.CodeNotFound {
		t.Errorf("attached to a forgotten session: %v", err)
	}
	if err := c.Start(ctx, guest.ExecSpec{Argv: []string{"no-such-command"}}); guest.CodeOf(err) != guest.CodeNotStarted {
		t.Errorf("started what isn't there: %v", err)
	}
}

// Commands have the machine's variables, unless they were given others.
func TestEnvironment(t *testing.T) {
	c := openAgent(t, &agent.Server{Sessions: &session.Table{Environment: func() []string { return []string{"https_proxy=http://proxy:3128", "LANG=de_DE.UTF-8", "A=machine"} }}})
	got := output(t, c, guest.ExecSpec{Argv: sh("echo $https_proxy $LANG $A"), Env: []string{"A=mine"}}, "")
	if got != "http://proxy:3128 de_DE.UTF-8 mine\n" {
		t.Errorf("%q", got)
	}
}

func TestSignalAndForget(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	ctx := deadline(t)
	id := guest.NewID()
	if err := c.Start(ctx, guest.ExecSpec{ID: id, Argv: sh("sleep 60; true")}); err != nil {
		t.Fatal(err)
	}
	if err := c.Forget(ctx, id); guest.CodeOf(err) != guest.CodeConflict {
		t.Errorf("forgot a running session: %v", err)
	}
	if err := c.Signal(ctx, id, "NOSUCH"); guest.CodeOf(err) != guest.CodeInvalid {
		t.Errorf("sent a signal that doesn't exist: %v", err)
	}
	if err := c.Signal(ctx, id, "TERM"); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Attach(ctx, id, guest.IO{}); err != nil || st.Code != 143 || st.Signal != "TERM" {
		t.Errorf("%+v, %v", st, err)
	}
	if err := c.Signal(ctx, id, "TERM"); guest.CodeOf(err) != guest.CodeConflict {
		t.Errorf("signalled the dead: %v", err)
	}
}

func TestSecondClientTakesOver(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	ctx := deadline(t)
	id := guest.NewID()
	up, first := make(chan bool), make(chan error)
	go func() {
		_, err := c.Exec(ctx, guest.ExecSpec{ID: id, Argv: sh("echo up; read line; echo $line"), Stdin: true},
			guest.IO{Stdin: blocked(t), Stdout: writerFunc(func(p []byte) (int, error) { close(up); return len(p), nil })})
		first <- err
	}()
	<-up
	var out bytes.Buffer
	st, err := c.Attach(ctx, id, guest.IO{Stdin: strings.NewReader("hello\n"), Stdout: &out})
	if err != nil || st.Code != 0 || !strings.HasSuffix(out.String(), "hello\n") {
		t.Errorf("%+v, %v, %q", st, err, &out)
	}
	if err := <-first; guest.CodeOf(err) != guest.CodeSuperseded {
		t.Errorf("the first client was told %v", err)
	}
}

// A client's stream that was held up on its way and arrives after the one that
// took its place must not push that out.
func TestLateStreamIsTurnedAway(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	spec := guest.ExecSpec{ID: guest.NewID(), Argv: sh("read line; echo $line"), Stdin: true}
	open := func(try int) (net.Conn, *bufio.Reader, error) {
		conn, err := c.Dial(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		req, _ := guest.AppendRequest(nil, guest.OpExec, guest.ExecRequest{Spec: spec, Follow: true, Client: "one", Try: try})
		if _, err := conn.Write(req); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		return conn, r, guest.ReadResponse(r, &guest.Attached{})
	}
	conn, r, err := open(2)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := open(1); guest.CodeOf(err) != guest.CodeSuperseded {
		t.Errorf("the late stream was told %v", err)
	}
	if _, err := conn.Write(guest.AppendFrame(nil, guest.Frame{Type: guest.FrameStdin, Data: []byte("hello\n")})); err != nil {
		t.Fatal(err)
	}
	for frames := guest.NewFrameReader(r); ; {
		f, err := frames.Next()
		if err != nil {
			t.Fatalf("the present stream: %v", err)
		}
		if f.Type == guest.FrameStdout {
			if string(f.Data) != "hello\n" {
				t.Errorf("output %q", f.Data)
			}
			return
		}
	}
}

func TestBackpressureThenGrace(t *testing.T) {
	s := &agent.Server{Sessions: &session.Table{Grace: time.Hour}}
	c := openAgent(t, s)
	ctx, cancel := context.WithCancel(deadline(t))
	id := guest.NewID()
	got := make(chan bool, 1)
	_, err := c.Exec(ctx, guest.ExecSpec{ID: id, Argv: sh("head -c 8M /dev/zero")}, guest.IO{Stdout: writerFunc(func(p []byte) (int, error) {
		select {
		case got <- true:
			cancel()
		default:
		}
		return len(p), nil
	})})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// Nobody follows: the command is held, nothing is dropped.
	// A chunk that a short read began counts for half of its buffer: 4 MiB may be full
	// with less in them.
	eventually(t, "the spool fills", func() bool { return s.Sessions.List()[0].Stdout > 3<<20 })
	if d := s.Sessions.List()[0]; d.Exit != nil || d.Dropped != 0 || d.Stdout > 5<<20 {
		t.Errorf("%+v", d)
	}
	var n counter
	if st, err := c.Attach(deadline(t), id, guest.IO{Stdout: &n}); err != nil || st.Code != 0 || n < 7<<20 {
		t.Errorf("%+v, %v, %d", st, err, n)
	}

	s.Sessions.Grace = time.Millisecond
	ctx, cancel = context.WithCancel(deadline(t))
	id = guest.NewID()
	if _, err := c.Exec(ctx, guest.ExecSpec{ID: id, Argv: sh("head -c 8M /dev/zero")}, guest.IO{Stdout: writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	eventually(t, "the command ends without a reader", func() bool {
		l := s.Sessions.List()
		return l[len(l)-1].Exit != nil && l[len(l)-1].Dropped > 0
	})
}

func TestClosedOutputReachesTheCommand(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	refused := errors.New("disk full")
	st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: []string{"yes"}}, guest.IO{Stdout: writerFunc(func(p []byte) (int, error) { return 0, refused })})
	if !errors.Is(err, refused) || st.Signal != "PIPE" {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestTerminal(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	resize, signals := make(chan guest.WinSize, 1), make(chan string, 1)
	var out safeBuffer
	near := guest.IO{Stdin: blocked(t), Stdout: &out, Resize: resize, Signals: signals}
	type result struct {
		st  guest.ExitStatus
		err error
	}
	done := make(chan result)
	go func() {
		st, err := c.Exec(deadline(t), guest.ExecSpec{TTY: &guest.WinSize{Rows: 30, Cols: 100}, Term: "xterm-256color", Stdin: true,
			Argv: sh(`tty >/dev/null && echo "$TERM $(stty size)"; trap 'stty size' WINCH; trap 'echo int; exit 9' INT; echo ready; while :; do sleep 0.02; done`)}, near)
		done <- result{st, err}
	}()
	defer func() { t.Logf("terminal: %q", out.String()) }()
	eventually(t, "the program is up", func() bool { return strings.Contains(out.String(), "xterm-256color 30 100\r\nready") })
	resize <- guest.WinSize{Rows: 10, Cols: 40}
	eventually(t, "it sees the new size", func() bool { return strings.Contains(out.String(), "10 40") })
	signals <- "INT"
	if r := <-done; r.err != nil || r.st.Code != 9 || !strings.Contains(out.String(), "int\r\n") {
		t.Errorf("%+v, %q", r, out.String())
	}
	// End of input is the terminal's end-of-file character.
	var cat bytes.Buffer
	st, err := c.Exec(deadline(t), guest.ExecSpec{TTY: &guest.WinSize{}, Stdin: true, Argv: []string{"cat"}}, guest.IO{Stdin: strings.NewReader("line\n"), Stdout: &cat})
	if err != nil || st.Code != 0 || !strings.Contains(cat.String(), "line\r\nline\r\n") {
		t.Errorf("%+v, %v, %q", st, err, &cat)
	}
}

func TestOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	c := openAgent(t, &agent.Server{})
	for user, want := range map[string]string{
		"nobody":      "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)\n",
		"12345:0":     "uid=12345 gid=0(root) groups=0(root)\n",
		"daemon:root": "uid=1(daemon) gid=0(root) groups=0(root)\n",
	} {
		var out bytes.Buffer
		st, err := c.Exec(deadline(t), guest.ExecSpec{Argv: sh("id; : >/dev/stdout"), User: user, Dir: "/"}, guest.IO{Stdout: &out})
		if err != nil || st.Code != 0 || out.String() != want {
			t.Errorf("%s: %+v, %v, %q", user, st, err, &out)
		}
	}
}

func TestUnconfiguredGuestRunsNothing(t *testing.T) {
	var ready atomic.Bool
	c := openAgent(t, &agent.Server{Version: "v1", Configured: ready.Load, InitState: func() string { return "starting" },
		Configure: func(_ context.Context, id guest.Identity) (guest.Ready, error) {
			if id.ID != "me" {
				return guest.Ready{}, guest.Errorf(guest.CodeConflict, "I am me")
			}
			ready.Store(true)
			return guest.Ready{Agent: "v1", Stages: []guest.Stage{{Name: "mount"}}}, nil
		}})
	ctx := deadline(t)
	if _, err := c.Exec(ctx, guest.ExecSpec{Argv: []string{"true"}}, guest.IO{}); guest.CodeOf(err) != guest.CodeUnavailable {
		t.Errorf("ran in no root: %v", err)
	}
	if _, err := c.Configure(ctx, guest.Identity{ID: "you"}); guest.CodeOf(err) != guest.CodeConflict {
		t.Errorf("took another's identity: %v", err)
	}
	if r, err := c.Configure(ctx, guest.Identity{ID: "me"}); err != nil || r.Agent != "v1" || len(r.Stages) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if h, err := c.Health(ctx); err != nil || !h.Configured || h.Init != "starting" || h.UptimeMS <= 0 {
		t.Errorf("%+v, %v", h, err)
	}
	if err := c.Shutdown(ctx, "poweroff"); guest.CodeOf(err) != guest.CodeUnavailable {
		t.Errorf("shut down by nobody: %v", err)
	}
	if err := c.Shutdown(ctx, "explode"); guest.CodeOf(err) != guest.CodeInvalid {
		t.Errorf("a verb that isn't: %v", err)
	}
}

func TestClock(t *testing.T) {
	var got time.Time
	c := openAgent(t, &agent.Server{SetClock: func(now time.Time) error { got = now; return nil }})
	want := time.Now()
	if err := c.Clock(deadline(t), want); err != nil || !got.Equal(want) {
		t.Errorf("%v, %v", got, err)
	}
}

// A clock that is off is set until it is right; one that isn't is left alone.
func TestSyncClock(t *testing.T) {
	var (
		mu    sync.Mutex
		ahead time.Duration
		sets  int
	)
	c := openAgent(t, &agent.Server{
		InitState: func() string { t.Error("the image's init was asked, which takes it long"); return "" },
		Now:       func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) },
		SetClock: func(now time.Time) error {
			mu.Lock()
			defer mu.Unlock()
			if ahead = time.Until(now); sets == 0 {
				ahead -= 200 * time.Millisecond // the first order takes that long to get here
			}
			sets++
			return nil
		},
	})
	if _, err := c.SyncClock(deadline(t)); err != nil || sets != 0 {
		t.Errorf("a right clock was set %d times, %v", sets, err)
	}
	ahead = -time.Hour
	off, err := c.SyncClock(deadline(t))
	if err != nil || off.Round(time.Minute) != -time.Hour || sets != 2 || ahead.Abs() > 100*time.Millisecond {
		t.Errorf("a clock an hour late: off by %v, set %d times, %v off then, %v", off, sets, ahead, err)
	}
}

// The time of an identity is that of its sending, not of its making.
func TestIdentityCarriesTheTimeOfSending(t *testing.T) {
	var got guest.Identity
	c := openAgent(t, &agent.Server{Configure: func(_ context.Context, id guest.Identity) (guest.Ready, error) {
		got = id
		return guest.Ready{}, nil
	}})
	before := time.Now()
	if _, err := c.Configure(deadline(t), guest.Identity{ID: "0123456789ab"}); err != nil || got.Time.Before(before) || got.ID != "0123456789ab" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestEcho(t *testing.T) {
	conn, err := openAgent(t, &agent.Server{}).Echo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, sent := range []string{"x", "many bytes"} {
		got := make([]byte, len(sent))
		if _, err := conn.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != sent {
			t.Errorf("%q came back as %q, %v", sent, got, err)
		}
	}
}

func TestWatch(t *testing.T) {
	s := &agent.Server{}
	c := openAgent(t, s)
	ctx, cancel := context.WithCancel(deadline(t))
	if err := s.Notify(ctx, guest.Notice{Kind: "early"}); err != nil {
		t.Fatal(err)
	}
	told, watched := make(chan string, 8), make(chan error)
	go func() { watched <- c.Watch(ctx, func(n guest.Notice) { told <- n.Kind }) }()
	if got := <-told; got != "early" {
		t.Fatal(got)
	}
	// Notify returns when the host has it.
	if err := s.Notify(ctx, guest.Notice{Kind: "poweroff"}); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-told:
		if got != "poweroff" {
			t.Error(got)
		}
	default:
		t.Error("Notify returned before the host was told")
	}
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Notify(ctx, guest.Notice{Kind: "alone"}); err != nil {
		t.Errorf("waited for a host that left: %v", err)
	}
}

func write(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// blocked is a stdin at which nobody types.
func blocked(t testing.TB) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}

// Streams that clients hold count as such until they are closed; those of the host
// itself don't.
func TestStreams(t *testing.T) {
	s := &agent.Server{}
	c := openAgent(t, s)
	ctx := deadline(t)
	streams := func() int {
		h, err := c.Health(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return h.Streams
	}
	eventually(t, "nobody holds any", func() bool { return streams() == 0 })
	held, err := c.Echo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n := streams(); n != 1 {
		t.Errorf("%d streams are open, not one", n)
	}
	watching, stop := context.WithCancel(ctx)
	watched, told := make(chan error), make(chan guest.Notice, 1)
	go func() { watched <- c.Watch(watching, func(n guest.Notice) { told <- n }) }()
	if err := s.Notify(ctx, guest.Notice{}); err != nil {
		t.Fatal(err)
	}
	<-told // it watches
	if n := streams(); n != 1 {
		t.Errorf("%d streams beside one and a watch", n)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it left", func() bool { return streams() == 0 })
	stop()
	<-watched
}

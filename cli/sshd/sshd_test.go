package sshd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"banger/cli/sshd"
	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/guest/agent/tool"
	"banger/guest/flow"
)

// The tests run the real ssh, scp, sftp, rsync and git against a real agent, which serves
// in this process. What ssh runs to reach it is this program again.
func TestMain(m *testing.M) {
	if os.Args[0] == tool.Name {
		os.Exit(tool.Main(os.Args))
	}
	if dir := os.Getenv("BANGER_TEST_GUEST"); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Where SIGHUP is ignored, as under nohup, so it would be for the guest's commands, and a
	// shell can't trap it. What this program handles its children don't inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}

// serve is the SSH server of the guest in dir, on standard input and output.
func serve(dir string) error {
	key, err := sshd.Keys{Dir: dir}.Host("0123", "guest.vm", []string{"guest.vm"})
	if err != nil {
		return err
	}
	// One connection of our own for the server: ssh's may be two pipes.
	pair := stdio{os.Stdin, os.Stdout}
	return (&sshd.Server{Key: key, Guest: client(dir), Spec: func(user string) guest.ExecSpec {
		spec := guest.ExecSpec{Env: []string{"IMAGE=yes", "HOME=" + dir}}
		if user != "default" {
			spec.User = user
		}
		return spec
	}}).Serve(context.Background(), pair)
}

type stdio struct{ in, out *os.File }

func (s stdio) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s stdio) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s stdio) Close() error                     { return errors.Join(s.in.Close(), s.out.Close()) }
func (s stdio) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (s stdio) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (s stdio) SetDeadline(time.Time) error      { return nil }
func (s stdio) SetReadDeadline(time.Time) error  { return nil }
func (s stdio) SetWriteDeadline(time.Time) error { return nil }

func client(dir string) *guest.Client {
	return &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", dir+"/agent")
	}}
}

// far is a guest, and the host's way to it.
type far struct {
	t      testing.TB
	dir    string
	config string
	mu     sync.Mutex
	conns  map[net.Conn]bool
	down   bool // no stream gets through
}

// newFar serves a guest.
func newFar(t testing.TB) *far {
	t.Helper()
	return newFarWith(t, 0)
}

// newFarWith serves a guest that holds output back for a time when streams have broken.
func newFarWith(t testing.TB, grace time.Duration) *far {
	t.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("no ssh here")
	}
	dir, err := os.MkdirTemp("", "sshd") // sockets' paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &far{t: t, dir: dir, conns: map[net.Conn]bool{}}
	l, err := net.Listen("unix", dir+"/agent")
	if err != nil {
		t.Fatal(err)
	}
	s := &agent.Server{Sessions: &session.Table{Grace: grace}}
	s.Callers.Dir = dir + "/agents"
	served := make(chan error)
	go func() { served <- s.Serve(counting{l, f}) }()
	t.Cleanup(func() { l.Close(); <-served })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f.config = dir + "/config"
	f.write("config", fmt.Sprintf("Host guest.vm\n ProxyCommand env BANGER_TEST_GUEST=%s %s\n UserKnownHostsFile %s\n StrictHostKeyChecking yes\n User default\n ControlPath %s/master\n",
		dir, self, sshd.Keys{Dir: dir}.KnownHosts(), dir))
	return f
}

// counting knows the streams that are open.
type counting struct {
	net.Listener
	far *far
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.far.mu.Lock()
		c.far.conns[conn] = true
		if c.far.down {
			_ = conn.Close()
		}
		c.far.mu.Unlock()
	}
	return conn, err
}

// cut breaks all streams, as when a VM's shim dies.
func (f *far) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.conns {
		_ = conn.Close()
		delete(f.conns, conn)
	}
}

func (f *far) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// command is a command of ours that reaches the guest.
func (f *far) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	f.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "GIT_SSH_COMMAND=ssh -F "+f.config, "RSYNC_RSH=ssh -F "+f.config, "HOME="+f.dir, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	return cmd
}

func (f *far) ssh(args ...string) *exec.Cmd {
	return f.command("ssh", append([]string{"-F", f.config}, args...)...)
}

// run runs a command that must succeed and returns what it wrote.
func (f *far) run(cmd *exec.Cmd) string {
	f.t.Helper()
	var errs bytes.Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("%s: %v: %s%s", cmd, err, out, &errs)
	}
	return string(out)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestCommands(t *testing.T) {
	f := newFar(t)
	for _, tt := range []struct {
		line, stdin, out, err string
		code                  int
	}{
		{line: "cat", stdin: "a\x00b", out: "a\x00b"},
		{line: "echo $IMAGE; echo no >&2; exit 3", out: "yes\n", err: "no\n", code: 3},
		{line: "exec no-such-command", code: 127, err: "not found"},
		{line: "/etc/passwd", code: 126, err: "ermission denied"},
		{line: "kill -9 $$", code: 255},
		{line: "true", stdin: strings.Repeat("x", 4<<20)},
		{line: "wc -c", stdin: strings.Repeat("x", 4<<20), out: "4194304\n"},
	} {
		cmd := f.ssh("guest.vm", tt.line)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(tt.stdin), &out, &errs
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != tt.code || out.String() != tt.out || !strings.Contains(errs.String(), tt.err) {
			t.Errorf("%s: %v, %q, %q", tt.line, err, &out, &errs)
		}
	}
}

func TestUnknownUser(t *testing.T) {
	f := newFar(t)
	out, err := f.ssh("nobody-here@guest.vm", "true").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `no user "nobody-here"`) {
		t.Errorf("%v: %s", err, out)
	}
}

// A command whose client has left is told so.
func TestClientLeaves(t *testing.T) {
	f := newFar(t)
	for _, tty := range []string{"-T", "-tt"} {
		_ = os.Remove(f.dir + "/told")
		cmd := f.ssh(tty, "guest.vm", `trap 'echo told >$HOME/told; exit' HUP; echo ready; while :; do sleep 0.05; done`)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		eventually(t, "the command is told: "+tty, func() bool {
			_, err := os.Stat(f.dir + "/told")
			return err == nil
		})
	}
}

func TestCopies(t *testing.T) {
	f := newFar(t)
	f.write("from", strings.Repeat("some text\n", 100000))
	want, _ := os.ReadFile(f.dir + "/from")
	same := func(name string) {
		t.Helper()
		if got, err := os.ReadFile(filepath.Join(f.dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, protocol := range []string{"-s", "-O"} {
		f.run(f.command("scp", protocol, "-q", "-F", f.config, f.dir+"/from", "guest.vm:"+f.dir+"/there"+protocol))
		same("there" + protocol)
		f.run(f.command("scp", protocol, "-q", "-F", f.config, "guest.vm:"+f.dir+"/there"+protocol, f.dir+"/back"+protocol))
		same("back" + protocol)
	}
	sftp := f.command("sftp", "-F", f.config, "-b", "-", "guest.vm")
	sftp.Stdin = strings.NewReader(fmt.Sprintf("put %[1]s/from %[1]s/a\nrename %[1]s/a %[1]s/b\nget %[1]s/b %[1]s/c\nmkdir %[1]s/d\nls -l %[1]s\n", f.dir))
	if out := f.run(sftp); !strings.Contains(out, "from") {
		t.Error(out)
	}
	same("c")
}

func TestRsync(t *testing.T) {
	f := newFar(t)
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Skip("no rsync here")
	}
	files := 10000
	if testing.Short() {
		files = 500
	}
	for i := range files {
		dir := filepath.Join(f.dir, "from", fmt.Sprint(i/100))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Appendf(nil, "file %d\n", i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.run(f.command("rsync", "-a", f.dir+"/from/", "guest.vm:"+f.dir+"/to/"))
	f.run(f.command("diff", "-r", f.dir+"/from", f.dir+"/to"))
	if out := f.run(f.command("rsync", "-anc", "--itemize-changes", "guest.vm:"+f.dir+"/to/", f.dir+"/from/")); out != "" {
		t.Errorf("differ: %.300s", out)
	}
}

func TestGit(t *testing.T) {
	f := newFar(t)
	git := func(args ...string) string {
		t.Helper()
		return f.run(f.command("git", append([]string{"-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"}, args...)...))
	}
	git("init", "-q", "--bare", f.dir+"/bare")
	git("clone", "-q", "ssh://guest.vm"+f.dir+"/bare", f.dir+"/work")
	f.write("work/file", "hello")
	git("-C", f.dir+"/work", "add", ".")
	git("-C", f.dir+"/work", "commit", "-qm", "one")
	git("-C", f.dir+"/work", "push", "-q", "origin", "HEAD:main")
	git("clone", "-q", "-b", "main", "ssh://guest.vm"+f.dir+"/bare", f.dir+"/again")
	if got, err := os.ReadFile(f.dir + "/again/file"); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

// shouting answers with what it got in capitals, once it has all of it.
func shouting(t *testing.T, network, address string) net.Listener {
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				all, _ := io.ReadAll(conn)
				_, _ = conn.Write(bytes.ToUpper(all))
			}()
		}
	}()
	return l
}

// ask says something and ends its direction.
func ask(conn net.Conn, err error) error {
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	long := strings.Repeat("abcdefgh", 1<<15)
	go func() {
		_, _ = io.WriteString(conn, long)
		_ = conn.(flow.Duplex).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != strings.ToUpper(long) {
		err = fmt.Errorf("%d bytes came back of %d", len(got), len(long))
	}
	return err
}

// freePort is one of this host that nobody has now.
func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestForwards(t *testing.T) {
	f := newFar(t)
	tcp := shouting(t, "tcp", "127.0.0.1:0").Addr().String()
	unix := shouting(t, "unix", f.dir+"/far.sock").Addr().String()
	l1, l2, r1, r2, d := freePort(t), f.dir+"/l.sock", freePort(t), f.dir+"/r.sock", freePort(t)
	cmd := f.ssh("-N", "-M", "-o", "ExitOnForwardFailure=yes", "-L", l1+":"+tcp, "-L", l2+":"+unix, "-L", f.dir+"/none.sock:/no/such/socket",
		"-R", r1+":"+tcp, "-R", r2+":"+unix, "-D", d, "guest.vm")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	eventually(t, "it forwards: "+errs.String(), func() bool { return ask(net.Dial("unix", r2)) == nil })
	through := func() (net.Conn, error) {
		s, err := proxy.SOCKS5("tcp", d, nil, nil)
		if err != nil {
			return nil, err
		}
		return s.Dial("tcp", tcp)
	}
	for name, dial := range map[string]func() (net.Conn, error){
		"-L":      func() (net.Conn, error) { return net.Dial("tcp", l1) },
		"-L unix": func() (net.Conn, error) { return net.Dial("unix", l2) },
		"-R":      func() (net.Conn, error) { return net.Dial("tcp", r1) },
		"-R unix": func() (net.Conn, error) { return net.Dial("unix", r2) },
		"-D":      through,
	} {
		if err := ask(dial()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := ask(net.Dial("unix", f.dir+"/none.sock")); err == nil {
		t.Error("a forward to nothing answers")
	}
	if t.Failed() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatal(errs.String())
	}
	// After a break of all streams the guest listens again.
	f.cut()
	eventually(t, "-R works again", func() bool { return ask(net.Dial("tcp", r1)) == nil && ask(net.Dial("unix", r2)) == nil })

	f.run(f.ssh("-O", "cancel", "-R", r1+":"+tcp, "guest.vm"))
	eventually(t, "a cancelled forward is gone", func() bool {
		conn, err := net.Dial("tcp", r1)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "the guest's socket is gone", func() bool {
		_, err := os.Lstat(r2)
		return errors.Is(err, os.ErrNotExist)
	})
}

func TestAgentForwarding(t *testing.T) {
	f := newFar(t)
	if _, err := exec.LookPath("ssh-agent"); err != nil {
		t.Skip("no ssh-agent here")
	}
	agent := exec.Command("ssh-agent", "-D", "-a", f.dir+"/keys")
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()
	eventually(t, "the agent listens", func() bool { _, err := os.Stat(f.dir + "/keys"); return err == nil })
	with := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+f.dir+"/keys")
		return cmd
	}
	f.run(f.command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the-key", "-f", f.dir+"/key"))
	f.run(with(f.command("ssh-add", "-q", f.dir+"/key")))
	var paths []string
	for range 2 {
		out := f.run(with(f.ssh("-A", "guest.vm", "echo $SSH_AUTH_SOCK; ssh-add -l")))
		path, keys, _ := strings.Cut(out, "\n")
		if !strings.Contains(keys, "the-key") {
			t.Errorf("keys: %s", out)
		}
		paths = append(paths, path)
	}
	if paths[0] != paths[1] || !strings.HasPrefix(paths[0], f.dir+"/agents/") {
		t.Errorf("paths: %q", paths)
	}
	if out := f.run(with(f.ssh("guest.vm", "echo =$SSH_AUTH_SOCK"))); strings.Contains(out, "agents") {
		t.Errorf("unasked: %s", out)
	}
}

func TestManySessionsOnOneConnection(t *testing.T) {
	f := newFar(t)
	master := f.ssh("-M", "-N", "guest.vm")
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = master.Process.Kill(); _ = master.Wait() }()
	eventually(t, "there is a connection", func() bool { return f.ssh("-O", "check", "guest.vm").Run() == nil })
	var wg sync.WaitGroup
	var failed atomic.Int64
	work := make(chan int)
	for range 20 {
		wg.Go(func() {
			for i := range work {
				var errs bytes.Buffer
				cmd := f.ssh("guest.vm", fmt.Sprintf("echo %d", i))
				cmd.Stderr = &errs
				out, err := cmd.Output()
				if err != nil || string(out) != fmt.Sprintf("%d\n", i) {
					failed.Add(1)
					t.Logf("session %d: %v, %q, %q", i, err, out, &errs)
				}
			}
		})
	}
	for i := range 300 {
		work <- i
	}
	close(work)
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d sessions failed", n)
	}
}

// zeroes and their like: bytes that are known, of any length.
type known struct{ at, end int64 }

func (k *known) Read(b []byte) (int, error) {
	b = b[:min(int64(len(b)), k.end-k.at)]
	for i := range b {
		b[i] = byte((k.at + int64(i)) * 7 >> 3)
	}
	k.at += int64(len(b))
	if len(b) == 0 {
		return 0, io.EOF
	}
	return len(b), nil
}

// All streams to the guest break again and again, and no byte is lost or doubled.
func TestTransfersSurviveBreaks(t *testing.T) {
	f := newFar(t)
	size := int64(256 << 20)
	if testing.Short() {
		size = 32 << 20
	}
	want := sha256.New()
	if _, err := io.Copy(want, &known{end: size}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	cuts := 0
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
				f.cut()
				cuts++
			}
		}
	})
	cmd := f.ssh("guest.vm", "cat")
	cmd.Stdin = &known{end: size}
	got := sha256.New()
	cmd.Stdout = got
	err := cmd.Run()
	close(done)
	wg.Wait()
	if err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("after %d breaks: %v, other bytes: %v", cuts, err, !bytes.Equal(got.Sum(nil), want.Sum(nil)))
	}
	if cuts == 0 {
		t.Error("nothing broke")
	}
}

// Output that was lost is no success, and the command is told that nobody follows it.
func TestLostOutput(t *testing.T) {
	f := newFarWith(t, time.Millisecond)
	cmd := f.ssh("guest.vm", `trap 'echo told >$HOME/told; exit' HUP; echo ready; while [ ! -e $HOME/down ]; do sleep 0.05; done
		head -c 16777216 /dev/zero; echo >$HOME/written; while :; do sleep 0.05; done`)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	there := func(name string) func() bool {
		return func() bool { _, err := os.Stat(f.dir + "/" + name); return err == nil }
	}
	f.mu.Lock()
	f.down = true
	f.mu.Unlock()
	f.cut()
	f.write("down", "")
	eventually(t, "the output is written", there("written"))
	f.mu.Lock()
	f.down = false
	f.mu.Unlock()
	eventually(t, "the command is told", there("told"))
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 255 || !strings.Contains(errs.String(), "were dropped") {
		t.Errorf("%d, %s", code, &errs)
	}
}

func TestKeys(t *testing.T) {
	k := sshd.Keys{Dir: filepath.Join(t.TempDir(), "ssh")}
	host := func(id, name string, names ...string) string {
		t.Helper()
		key, err := k.Host(id, name, names)
		if err != nil {
			t.Fatal(err)
		}
		return string(key.PublicKey().Marshal())
	}
	a, b := host("1", "a.vm", "a.vm", "b.vm"), host("2", "b.vm", "a.vm", "b.vm")
	if a == b || host("1", "a.vm", "a.vm", "b.vm") != a {
		t.Error("a VM has one key, and no other VM has it")
	}
	lines := func() int {
		t.Helper()
		all, err := os.ReadFile(k.KnownHosts())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(all), "\n")
	}
	if n := lines(); n != 2 {
		t.Errorf("%d lines for two VMs", n)
	}
	if host("3", "a.vm", "a.vm") == a {
		t.Error("another VM of the name has the same key")
	}
	if n := lines(); n != 1 {
		t.Errorf("%d lines: what is gone stays", n)
	}
	if _ = host("2", "b.vm", "a.vm", "b.vm"); lines() != 2 {
		t.Errorf("%d lines for two VMs again", lines())
	}
	if _ = host("4", "c.vm"); lines() != 3 {
		t.Errorf("%d lines: one was forgotten when nobody knew which VMs there are", lines())
	}
	var wg sync.WaitGroup
	fresh := sshd.Keys{Dir: filepath.Join(t.TempDir(), "new")}
	var seen sync.Map
	for range 16 {
		wg.Go(func() {
			key, err := fresh.Host("1", "a.vm", nil)
			if err != nil {
				t.Error(err)
				return
			}
			seen.Store(string(key.PublicKey().Marshal()), true)
		})
	}
	wg.Wait()
	n := 0
	seen.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d keys of one VM", n)
	}
}

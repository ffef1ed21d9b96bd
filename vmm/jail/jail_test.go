package jail

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
	"banger/vmm/jail/attack"
)

// Process does what one of the other processes of these tests does, if this is one.
func Process() {
	switch {
	case os.Args[0] == "banger-jail":
		plant(os.Args[len(os.Args)-1])
		os.Exit(Main(os.Args[1:], services))
	case len(os.Args) > 1 && os.Args[1] == attack.Arg:
		os.Exit(attack.Main(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "vmm":
		os.Exit(vmm(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "trial":
		os.Exit(tryForEver())
	}
}

// Program is the path of this program. It has to be one without libraries.
func Program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "CGO_ENABLED" && s.Value == "1" }) {
		return self
	}
	static, err := buildStatic()
	if err != nil {
		t.Fatal(err)
	}
	return static
}

// buildStatic builds it anew without C. What it makes is below the package's temporary directory.
var buildStatic = sync.OnceValues(func() (string, error) {
	static := filepath.Join(Scratch, "static")
	build := exec.Command("go", "test", "-c", "-o", static, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return static, nil
})

// Scratch is the package's temporary directory.
var Scratch string

// vmm is a program in the VMM's place. Its argument says what it does.
func vmm(args []string) int {
	switch args[0] {
	case "exit":
		fmt.Println("it runs")
		return 7
	case "killed":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	case "again":
		fmt.Println("again:", unix.Exec(os.Args[0], os.Args, nil))
		return 0
	case "echo": // on descriptor 3
		buf := make([]byte, 100)
		for {
			n, err := unix.Read(3, buf)
			if err != nil || n == 0 {
				return 1
			}
			_, _ = unix.Write(3, bytes.ToUpper(buf[:n]))
		}
	case "dial": // the service within, until that closes
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: args[1]})
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		_, _ = unix.Write(fd, []byte("from the VMM\n"))
		_, _ = unix.Read(fd, make([]byte, 1))
	}
	for { // until it is killed
		_, _ = unix.Poll(nil, -1)
	}
}

// services of the test's banger-jail.
var services = map[string]Service{
	// relay gives the VMM's line to whoever connects from the host.
	"relay": func(env Env) (func(), error) {
		go func() {
			in, err := env.Inside("/run/x/relay").Accept()
			if err != nil {
				env.Fail(err)
				return
			}
			buf := make([]byte, 100)
			n, _ := in.Read(buf)
			out, err := env.Listener("relay.sock").Accept()
			if err != nil {
				env.Fail(err)
				return
			}
			_, _ = out.Write(buf[:n])
			_, _ = io.ReadAll(out)
			env.Fail(errors.New("the relay has ended"))
		}()
		return nil, nil
	},
	"broken": func(Env) (func(), error) { return nil, errors.New("it is broken") },
}

const testUser = 1_999_999_999

// SpecOf returns a jail for this program in the VMM's place.
func SpecOf(t *testing.T, args ...string) Spec {
	t.Helper()
	s := Spec{
		Dir: t.TempDir(), Name: "banger-test", Argv: append([]string{"/vmm", "vmm"}, args...), Filter: UML,
		Files: []File{{Host: Program(t), At: "/vmm"}}, Limits: Limits{Scratch: 1 << 20}, User: testUser,
	}
	return s
}

// run is a jail that runs.
type run struct {
	spec Spec
	cmd  *exec.Cmd
	out  bytes.Buffer
	self banger.Process
}

func start(t *testing.T, s Spec) (*run, error) {
	t.Helper()
	NeedJail(t)
	cmd, started, err := Command(Program(t), s)
	if err != nil {
		return nil, err
	}
	r := &run{spec: s, cmd: cmd}
	cmd.Stdout, cmd.Stderr = &r.out, &r.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	if r.self, err = proc.Read(cmd.Process.Pid); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return r, started()
}

func mustStart(t *testing.T, s Spec) *run {
	t.Helper()
	r, err := start(t, s)
	if err != nil {
		t.Fatalf("%v\n%s", err, &r.out)
	}
	return r
}

// NeedJail skips a test where a host makes no jails for this user, and says why.
func NeedJail(t *testing.T) {
	t.Helper()
	judged.Do(func() { here, _, hereErr = Judge(context.Background(), Program(t), UML) })
	if hereErr != nil {
		t.Fatal(hereErr)
	}
	if here.Hint != "" {
		t.Skipf("%s: %s", here.Detail, here.Hint)
	}
}

// What Judge says of this host.
var (
	judged  sync.Once
	here    Verdict
	hereErr error
)

// A host that refuses namespaces, or what is needed in them, is told from a jail that falls.
func TestForbidden(t *testing.T) {
	NeedJail(t)
	// As AppArmor does on Ubuntu: there are namespaces, but no rights in them.
	v, _ := judge(t, "", func(_ *Spec, c *exec.Cmd, _ attack.Bait) {
		if c != nil {
			c.SysProcAttr.AmbientCaps = nil
		}
	})
	if v.Stands || v.Hint == "" || !strings.Contains(v.Detail, "not permitted") {
		t.Errorf("without rights: %+v", v)
	}
	if os.Getuid() == 0 {
		return
	}
	v, _ = judge(t, "", func(_ *Spec, c *exec.Cmd, _ attack.Bait) {
		if c != nil {
			c.SysProcAttr.UidMappings[0].HostID++ // nobody may have another's
		}
	})
	if v.Stands || v.Hint == "" {
		t.Errorf("without a user namespace: %+v", v)
	}
}

func (r *run) wait(t *testing.T) (status int, end End) {
	t.Helper()
	_ = r.cmd.Wait()
	end, seen, err := Ended(r.spec.Dir)
	if err != nil || !seen || end.Time.IsZero() {
		t.Fatalf("its end: %+v, %v, %v", end, seen, err)
	}
	return r.cmd.ProcessState.ExitCode(), end
}

// It runs, ends, and both its parent and whoever comes later know how.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		args   []string
		do     func(*run) error
		status int
		end    End
	}{
		{args: []string{"exit"}, status: 7, end: End{Status: 7}},
		{args: []string{"killed"}, status: 137, end: End{Status: -1, Signal: 9}},
		{args: []string{"wait"}, do: func(r *run) error { return r.cmd.Process.Signal(unix.SIGTERM) }, status: 143, end: End{Status: -1, Signal: 9, Asked: true}},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			r := mustStart(t, SpecOf(t, c.args...))
			if c.do != nil {
				if _, seen, err := Ended(r.spec.Dir); seen || err != nil {
					t.Fatalf("it has ended already: %v", err)
				}
				if err := c.do(r); err != nil {
					t.Fatal(err)
				}
			}
			status, end := r.wait(t)
			end.Time = time.Time{}
			if status != c.status || end != c.end {
				t.Errorf("status %d, %+v; want %d, %+v\n%s", status, end, c.status, c.end, &r.out)
			}
			if w := end.WaitStatus(); w.Signaled() != (status > 128) || w.Exited() && w.ExitStatus() != status || w.Signaled() && 128+int(w.Signal()) != status {
				t.Errorf("a parent would have seen %#x", int(w))
			}
			if end.ExitStatus() != status {
				t.Errorf("the end is said to be %d", end.ExitStatus())
			}
		})
	}
}

// Whatever kills the first process, nothing in the jail is left, and no end is invented.
func TestKilled(t *testing.T) {
	s := SpecOf(t, "echo")
	s.Pairs = []Pair{{"frames", "stream"}}
	r := mustStart(t, s)
	end, err := Take(t.Context(), s.Dir, r.self, "frames")
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.cmd.Wait()
	// All others that had the VMM's end are gone when this one ends.
	if _, err := io.ReadAll(end); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
	if end, seen, err := Ended(s.Dir); seen || err != nil {
		t.Errorf("%+v, %v", end, err)
	}
}

// Whenever the first process is killed while a jail is made, nothing of it is left.
func TestKilledWhileMade(t *testing.T) {
	NeedJail(t)
	mounts := func() (list string) { // where a jail's are; other tests have others
		data, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if at := strings.Fields(line)[4]; at == "/" || at == "/tmp" || at == "/vmm" {
				list += line
			}
		}
		return list
	}
	before, whole := mounts(), 0
	for i := range 30 {
		s := SpecOf(t, "wait")
		s.Name = fmt.Sprintf("banger-killed-%d-%d", os.Getpid(), i)
		s.Argv = append(s.Argv, s.Name)
		cmd, started, err := Command(Program(t), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.AfterFunc(time.Duration(i)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		if started() == nil {
			whole++
		}
		_ = cmd.Wait()
		after.Stop()
		for end := time.Now().Add(time.Minute); len(named(t, s.Name)) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("killed after %d ms, it left %q", i, named(t, s.Name))
			}
		}
	}
	t.Logf("%d of 30 ran before they were killed", whole)
	if now := mounts(); now != before {
		t.Errorf("mounts were\n%s\nand are\n%s", before, now)
	}
}

// named returns the command lines that have a name.
func named(t *testing.T, name string) (list []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && slices.Contains(strings.Split(string(line), "\x00"), name) {
			list = append(list, string(line))
		}
	}
	return list
}

// Root's own files are as good for the jail's user: nobody else reaches them by that.
func TestFilesOfRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	s := SpecOf(t, "exit")
	data, err := os.ReadFile(s.Files[0].Host)
	own, disk := filepath.Join(t.TempDir(), "own"), filepath.Join(t.TempDir(), "disk")
	if err = errors.Join(err, os.WriteFile(own, data, 0o700), os.WriteFile(disk, data[:4096], 0o600), os.Chmod(filepath.Dir(own), 0o700)); err != nil {
		t.Fatal(err)
	}
	s.Files[0].Host = own
	s.Files = append(s.Files, File{Host: disk, At: "/disk", Writable: true})
	r := mustStart(t, s)
	if status, _ := r.wait(t); status != 7 {
		t.Errorf("status %d, %s", status, &r.out)
	}
	for path, want := range map[string]os.FileMode{own: 0o705, disk: 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %o, %v", path, st.Mode().Perm(), err)
		}
	}
}

// Each new shim gets the host's end, from that jail and no other process.
func TestTake(t *testing.T) {
	s := SpecOf(t, "echo")
	s.Pairs = []Pair{{"frames", "seqpacket"}, {"more", "stream"}, {"third", "dgram"}}
	r := mustStart(t, s)
	for range 2 {
		f, err := Take(t.Context(), s.Dir, r.self, "frames")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		if n, err := f.Read(buf); err != nil || string(buf[:n]) != "HELLO" {
			t.Errorf("%q, %v", buf[:n], err)
		}
		f.Close() // the shim died
	}
	if pid, err := Listener(t.Context(), s.Dir); err != nil || pid != r.self.PID {
		t.Errorf("process %d listens, %v; it is %d", pid, err, r.self.PID)
	}
	if _, err := Take(t.Context(), s.Dir, r.self, "other"); err == nil || !strings.Contains(err.Error(), `no "other"`) {
		t.Errorf("got %v", err)
	}
	stale := r.self
	stale.StartTime--
	if _, err := Take(t.Context(), s.Dir, stale, "frames"); err == nil {
		t.Error("a process that has ended is taken for this one")
	}
	_, _ = r.cmd.Process.Kill(), r.cmd.Wait()
	if _, err := Take(t.Context(), s.Dir, r.self, "frames"); err == nil {
		t.Error("a dead jail gives something")
	}
	// Somebody else listens there now.
	os.Remove(filepath.Join(s.Dir, SocketFile))
	l, err := net.Listen("unix", filepath.Join(s.Dir, SocketFile))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Take(t.Context(), s.Dir, r.self, "frames"); err == nil || !strings.Contains(err.Error(), "listens in place") {
		t.Errorf("got %v", err)
	}
}

// The jail's socket is the host's: a connection of a process that the jail can see is refused.
func TestAskedFromWithin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := new(first).reply(conn); err == nil || !strings.Contains(err.Error(), "of the jail asks") {
		t.Errorf("got %v", err)
	}
}

// A service connects the VMM with the host, and its end is the jail's.
func TestService(t *testing.T) {
	s := SpecOf(t, "dial", "/run/x/relay")
	s.Services, s.Inside, s.Listen = []string{"relay"}, []string{"/run/x/relay"}, []string{"relay.sock"}
	r := mustStart(t, s)
	conn, err := net.Dial("unix", filepath.Join(s.Dir, "relay.sock"))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "from the VMM\n" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	conn.Close()
	if status, end := r.wait(t); end.Detail != "the relay has ended" || status != 137 || end.WaitStatus().ExitStatus() != 1 {
		t.Errorf("%d, %+v", status, end)
	}
}

// A program that is to run once can't be started again by what runs.
func TestOnce(t *testing.T) {
	for once, want := range map[bool]string{true: "again: permission denied\n", false: ""} {
		s := SpecOf(t, "again")
		s.Once = once
		r := mustStart(t, s)
		if !once { // it goes on for ever
			continue
		}
		if status, _ := r.wait(t); r.out.String() != want || status != 0 {
			t.Errorf("status %d, %s", status, &r.out)
		}
	}
}

// What can't be is said, and nothing runs.
func TestRefused(t *testing.T) {
	bad := func(change func(*Spec)) Spec {
		s := SpecOf(t, "wait")
		change(&s)
		return s
	}
	for want, s := range map[string]Spec{
		"isn't absolute":               bad(func(s *Spec) { s.Dir = "x" }),
		"isn't a clean absolute path":  bad(func(s *Spec) { s.Argv[0] = "/../vmm" }),
		`there is no filter "x"`:       bad(func(s *Spec) { s.Filter = "x" }),
		"want clean absolute paths":    bad(func(s *Spec) { s.Files[0].At = "/a/../../b" }),
		"want a clean absolute path":   bad(func(s *Spec) { s.Inside = []string{"run"} }),
		"isn't a file's name":          bad(func(s *Spec) { s.Listen = []string{"../x"} }),
		`there is no type "x"`:         bad(func(s *Spec) { s.Pairs = []Pair{{"a", "x"}} }),
		"no such file":                 bad(func(s *Spec) { s.Files = append(s.Files, File{Host: "/nowhere/x", At: "/x"}) }),
		"neither a regular file nor":   bad(func(s *Spec) { s.Files = append(s.Files, File{Host: t.TempDir(), At: "/x"}) }),
		"/other: no such file":         bad(func(s *Spec) { s.Argv[0] = "/other" }),
		`has no service "x"`:           bad(func(s *Spec) { s.Services = []string{"x"} }),
		"service broken: it is broken": bad(func(s *Spec) { s.Services = []string{"broken"} }),
		"processor: invalid argument":  bad(func(s *Spec) { s.CPU = new(int); *s.CPU = 1000 }),
		"/vmm: exec format error":      bad(func(s *Spec) { s.Files[0].Host = script(t) }),
	} {
		t.Run(want, func(t *testing.T) {
			_, err := start(t, s)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func script(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// plant leaves out a wall, in a banger-jail of the test's. Its name says which.
func plant(name string) {
	hole, ok := strings.CutPrefix(name, holeName)
	if !ok {
		return
	}
	confinement = slices.DeleteFunc(confinement, func(s step) bool { return s.what == hole })
}

const holeName = judgeName + "-without-"

// judge attacks a jail in which change has made a hole.
func judge(t *testing.T, hole string, change func(*Spec, *exec.Cmd, attack.Bait)) (Verdict, []attack.Result) {
	t.Helper()
	NeedJail(t)
	name := judgeName
	if hole != "" {
		name = holeName + hole
	}
	v, results, err := judgeWith(t.Context(), Program(t), UML, name, change)
	if err != nil {
		t.Fatal(err)
	}
	return v, results
}

// The jail stands, on this host, for this user.
func TestStands(t *testing.T) {
	v, results := judge(t, "", nil)
	for _, r := range results {
		t.Logf("%-16s %-70s %s", r.Area, r.What, r.Got)
	}
	if !v.Stands || len(results) < 50 {
		t.Fatalf("%+v", v)
	}
	if v.Landlock == 0 {
		t.Log("this kernel has no Landlock: one wall less")
	}
}

// Each wall that is left out is missed by the attack.
func TestPlantedHoles(t *testing.T) {
	without := func(ns uintptr) func(*Spec, *exec.Cmd, attack.Bait) {
		return func(_ *Spec, c *exec.Cmd, _ attack.Bait) {
			if c != nil {
				c.SysProcAttr.Cloneflags &^= ns
			}
		}
	}
	for _, c := range []struct {
		name, step string
		change     func(*Spec, *exec.Cmd, attack.Bait)
		found      string
	}{
		{"a bound home", "", func(s *Spec, c *exec.Cmd, b attack.Bait) {
			if c == nil {
				s.Files = append(s.Files, File{Host: b.File, At: b.File, Writable: true})
			}
		}, "files: read a file of the user: succeeded"},
		{"no filter", "system calls", nil, "the kernel: each number of a system call"},
		{"capabilities", "capabilities", nil, "network: pretend to be another process"},
		{"no limits", "limits", nil, "using things up: processes"},
		{"an open directory", "descriptors", func(_ *Spec, c *exec.Cmd, _ attack.Bait) {
			if c != nil {
				root, err := os.Open("/")
				if err != nil {
					t.Fatal(err)
				}
				c.ExtraFiles = append(c.ExtraFiles, root)
			}
		}, "files: reach it from open descriptors: directory"},
		{"open descriptors", "descriptors", nil, "files: use descriptors that nobody gave: descriptor"},
		{"the host's network", "", without(unix.CLONE_NEWNET), "network: see the names of the host's abstract sockets: EADDRINUSE"},
		{"the host's processes", "", without(unix.CLONE_NEWPID), "processes: have one of the host as its parent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, _ := judge(t, c.step, c.change)
			if v.Stands || !strings.Contains(v.Detail, c.found) {
				t.Errorf("%q isn't found: %+v", c.found, v)
			}
		})
	}
}

// The verdict is kept until the next boot, and for one banger-jail.
func TestKeptVerdict(t *testing.T) {
	NeedJail(t)
	p, kept := Program(t), filepath.Join(t.TempDir(), "no directory yet", "jail.json")
	v, err := Stands(t.Context(), p, kept)
	if err != nil || !v.Stands {
		t.Fatalf("%+v, %v", v, err)
	}
	change := func(do func(*Verdict)) {
		was := v
		do(&was)
		data, err := json.Marshal(was)
		if err == nil {
			err = os.WriteFile(kept, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if v, err := Stands(t.Context(), p, filepath.Join(t.TempDir(), "none", "jail.json")); err != nil || !v.Stands {
		t.Errorf("where it can't be kept: %+v, %v", v, err)
	}
	const mark = "not tried again"
	change(func(v *Verdict) { v.Detail = mark })
	if again, err := Stands(t.Context(), p, kept); err != nil || again.Detail != mark {
		t.Errorf("%+v, %v", again, err)
	}
	for name, do := range map[string]func(*Verdict){
		"another boot":    func(v *Verdict) { v.Detail, v.BootID = mark, "x" },
		"another program": func(v *Verdict) { v.Detail, v.Program = mark, "x" },
		"it fell":         func(v *Verdict) { v.Detail, v.Stands = mark, false },
	} {
		change(do)
		if again, err := Stands(t.Context(), p, kept); err != nil || again.Detail == mark {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	change(func(v *Verdict) { v.Stands = false })
	if _, err := Stands(ctx, p, kept); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// An ordinary user's jail is as good as root's: this runs all tests as one.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this is one")
	}
	const nobody = 65534
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(Program(t))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "test"), data, 0o755)
	}
	tmp := filepath.Join(dir, "tmp")
	if err = errors.Join(err, os.Mkdir(tmp, 0o700), os.Chown(tmp, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "test"), "-test.v")
	cmd.Dir, cmd.Env = tmp, append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestStands") && !strings.Contains(string(out), "--- SKIP: TestStands") {
		t.Errorf("%v\n%s", err, out)
	}
}

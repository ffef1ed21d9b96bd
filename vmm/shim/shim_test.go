package shim_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/guest"
	"banger/guest/link"
	"banger/host/proc"
	"banger/host/published"
	"banger/vmm/shim"
)

func exe(tb testing.TB) string {
	tb.Helper()
	path, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// config is that of a fake VM whose directory is too deep for a socket's path.
func config(tb testing.TB, mode string) shim.Config {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), strings.Repeat("deep", 20), strings.Repeat("deeper", 10))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	return shim.Config{
		ID: "0123456789ab", Dir: dir, Argv: []string{exe(tb), "fake-vmm", mode},
		Channel: "chan.sock", Console: "console.sock",
	}
}

// spawn starts a fake VM that ends with the test.
func spawn(tb testing.TB) (shim.Config, shim.Status) {
	tb.Helper()
	cfg := config(tb, "serve")
	st, err := shim.Spawn(tb.Context(), exe(tb), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { end(tb, cfg.Dir, st.VMM) })
	return cfg, st
}

// end ends a VM and what is beside it.
func end(tb testing.TB, dir string, vmm banger.Process) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st, alive := shim.GetStatus(ctx, dir)
	if err := proc.Kill(vmm, unix.SIGKILL); err != nil {
		tb.Error(err)
	}
	if alive == nil {
		if err := proc.Wait(ctx, st.Shim); err != nil {
			tb.Errorf("shim %+v outlives its VMM: %v", st.Shim, err)
		}
	}
}

// order has the fake VMM do something.
func order(tb testing.TB, dir, line string) {
	tb.Helper()
	c, err := shim.Dial(tb.Context(), dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "!"+line+"\n"); err != nil {
		tb.Fatal(err)
	}
	io.Copy(io.Discard, c)
}

func TestEcho(t *testing.T) {
	t.Parallel()
	cfg, st := spawn(t)
	if !proc.Alive(st.VMM) || !proc.Alive(st.Shim) {
		t.Fatalf("not alive: %+v", st)
	}
	c, err := shim.Dial(t.Context(), cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		io.WriteString(c, "e"+strings.Repeat("hello", 100_000))
		c.(*net.UnixConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != strings.Repeat("hello", 100_000) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	now, err := shim.GetStatus(t.Context(), cfg.Dir)
	if err != nil || !now.Established || now.VMM != st.VMM || now.Shim != st.Shim {
		t.Errorf("status %+v, %v", now, err)
	}
	for _, name := range []string{shim.ConfigFile, shim.SocketFile, shim.LockFile, shim.VMMLog} {
		info, err := os.Stat(filepath.Join(cfg.Dir, name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// A VMM that ends at once is a failed start that says why and leaves nothing.
func TestVMMThatEndsAtOnce(t *testing.T) {
	t.Parallel()
	cfg := config(t, "refuse")
	_, err := shim.Spawn(t.Context(), exe(t), cfg)
	if err == nil || !strings.Contains(err.Error(), "-drive: no such file") {
		t.Fatalf("error %v", err)
	}
	if _, err := shim.GetStatus(t.Context(), cfg.Dir); !errors.Is(err, shim.ErrNoShim) {
		t.Errorf("a shim remains: %v", err)
	}
	full := config(t, "bus")
	if _, err := shim.Spawn(t.Context(), exe(t), full); banger.CodeOf(err) != banger.CodeUnavailable || banger.AsError(err).Hint == "" {
		t.Errorf("a VMM without room for its memory: %v", err)
	}
	cfg.Argv[0] = "/nonexistent/vmm"
	if _, err := shim.Spawn(t.Context(), exe(t), cfg); err == nil || !strings.Contains(err.Error(), "/nonexistent/vmm") {
		t.Errorf("error %v", err)
	}
}

// A start that is given up leaves neither a shim nor a VMM.
func TestStartGivenUp(t *testing.T) {
	t.Parallel()
	cfg := config(t, "never")
	ctx, cancel := context.WithCancel(t.Context())
	var vmm banger.Process
	go func() {
		defer cancel()
		for vmm.PID == 0 { // shim.json names the VMM as soon as it was spawned
			b, _ := os.ReadFile(filepath.Join(cfg.Dir, shim.ConfigFile))
			if _, pid, ok := strings.Cut(string(b), `"vmm":{"pid":`); ok {
				n := 0
				fmt.Sscan(strings.ReplaceAll(pid, ",", " "), &n)
				vmm, _ = proc.Read(n)
			}
		}
	}()
	if _, err := shim.Spawn(ctx, exe(t), cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if vmm.PID == 0 || proc.Alive(vmm) {
		t.Errorf("VMM %+v lives", vmm)
	}
	if _, err := shim.GetStatus(t.Context(), cfg.Dir); !errors.Is(err, shim.ErrNoShim) {
		t.Errorf("a shim remains: %v", err)
	}
}

// There is one shim, and a second start touches nothing of the first's.
func TestOneShim(t *testing.T) {
	t.Parallel()
	cfg, st := spawn(t)
	if _, err := shim.Spawn(t.Context(), exe(t), cfg); err == nil || !strings.Contains(err.Error(), "another shim") {
		t.Errorf("second spawn: %v", err)
	}
	again, err := shim.Attach(t.Context(), exe(t), cfg.Dir, st.VMM)
	if err != nil || again.Shim != st.Shim {
		t.Errorf("attach beside a living shim: %+v, %v", again, err)
	}
	if !proc.Alive(st.VMM) || !proc.Alive(st.Shim) {
		t.Error("the first was harmed")
	}
}

func TestHowVMsEnd(t *testing.T) {
	t.Parallel()
	tests := []struct {
		order  string
		kind   banger.ExitKind
		status int
		detail string
	}{
		{"say reboot: Power down;exit 0", banger.ExitPoweroff, 0, ""},
		{"say reboot: Restarting system;exit 0", banger.ExitReboot, 0, ""},
		{"say Kernel panic - not syncing: Fatal exception;exit 0", banger.ExitPanic, 0, "Fatal exception"},
		{"say reboot: System halted", banger.ExitHalt, -1, ""},
		{"kill", banger.ExitKilled, 137, "SIGKILL"},
		{"print the disk is on fire;exit 1", banger.ExitFailed, 1, "the disk is on fire"},
		{"print the disk was eaten;abort", banger.ExitFailed, 134, "SIGABRT: the disk was eaten"},
		{"print fake-vmm: terminating on signal 15;exit 0", banger.ExitKilled, 0, ""},
		{"say nothing much;exit 0", banger.ExitUnknown, 0, ""},
	}
	for _, test := range tests {
		t.Run(test.order, func(t *testing.T) {
			t.Parallel()
			cfg, st := spawn(t)
			type result struct {
				exit banger.Exit
				err  error
			}
			waited := make(chan result, 1)
			go func() {
				exit, err := shim.Wait(t.Context(), cfg.Dir)
				waited <- result{exit, err}
			}()
			order(t, cfg.Dir, test.order)
			var r result
			select {
			case r = <-waited:
			case <-time.After(time.Minute):
				t.Fatal("the VMM lingers")
			}
			if r.err != nil || r.exit.Kind != test.kind || !strings.Contains(r.exit.Detail, test.detail) ||
				test.status >= 0 && r.exit.Status != test.status {
				t.Errorf("got %+v, %v", r.exit, r.err)
			}
			if err := proc.Wait(t.Context(), st.Shim); err != nil {
				t.Fatal(err)
			}
			later, err := shim.Wait(t.Context(), cfg.Dir)
			if err != nil || later.Kind != r.exit.Kind {
				t.Errorf("asked later: %+v, %v", later, err)
			}
		})
	}
}

// A guest's init says more than its console: here the machine ends by itself
// after the notice was taken.
func TestNotice(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]banger.Exit{
		"notice": {Kind: banger.ExitPoweroff},
		// What its init was about to do doesn't hide that it never came to it.
		"notice abort": {Kind: banger.ExitFailed, Status: 134},
		"notice kill":  {Kind: banger.ExitKilled, Status: 137},
		// Once its kernel has said the last word nothing can be cut short.
		"notice say reboot: Power down;kill":  {Kind: banger.ExitPoweroff, Status: 137},
		"notice say reboot: Power down;abort": {Kind: banger.ExitFailed, Status: 134},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, mode)
			st, err := shim.Spawn(t.Context(), exe(t), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer end(t, cfg.Dir, st.VMM)
			exit, err := shim.Wait(t.Context(), cfg.Dir)
			if err != nil || exit.Kind != want.Kind || exit.Status != want.Status {
				t.Errorf("exit %+v, %v", exit, err)
			}
		})
	}
}

// Anybody in a guest can write to its console. While the agent answers, that
// ends no VM; nor does it when the agent is too busy to answer once.
func TestForgedLastWords(t *testing.T) {
	t.Parallel()
	for mode, times := range map[string]int{"forge": 3, "forge-busy": 4} {
		t.Run(mode, func(t *testing.T) { t.Parallel(); forgedLastWords(t, mode, fmt.Sprint("asked ", times)) })
	}
}

func forgedLastWords(t *testing.T, mode, often string) {
	cfg := config(t, mode)
	st, err := shim.Spawn(t.Context(), exe(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, cfg.Dir, st.VMM)
	for asked := ""; !strings.Contains(asked, often); time.Sleep(10 * time.Millisecond) {
		b, _ := os.ReadFile(filepath.Join(cfg.Dir, shim.VMMLog))
		asked = string(b)
		if !proc.Alive(st.VMM) {
			t.Fatalf("the VM was ended: %s", asked)
		}
	}
	if _, err := (&guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return shim.Dial(ctx, cfg.Dir) }}).Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// After its shim was killed a VM is taken over; after its VMM died too, the end
// is recorded as one nobody saw.
func TestAttach(t *testing.T) {
	t.Parallel()
	cfg, st := spawn(t)
	kill(t, st.Shim)
	if _, err := shim.Wait(t.Context(), cfg.Dir); !errors.Is(err, shim.ErrNoShim) {
		t.Fatalf("wait with no shim: %v", err)
	}
	st2, err := shim.Attach(t.Context(), exe(t), cfg.Dir, st.VMM)
	if err != nil || st2.VMM != st.VMM {
		t.Fatalf("attach: %+v, %v", st2, err)
	}
	c, err := shim.Dial(t.Context(), cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	kill(t, st2.Shim)
	kill(t, st.VMM)
	if _, err := shim.Attach(t.Context(), exe(t), cfg.Dir, st.VMM); err != nil {
		t.Fatal(err)
	}
	exit, err := shim.Wait(t.Context(), cfg.Dir)
	if err != nil || exit.Kind != banger.ExitUnknown || exit.Status != -1 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func kill(tb testing.TB, p banger.Process) {
	tb.Helper()
	if err := proc.Kill(p, unix.SIGKILL); err != nil {
		tb.Fatal(err)
	}
	if err := proc.Wait(tb.Context(), p); err != nil {
		tb.Fatal(err)
	}
}

// Neither a guest nor a VMM can fill the host's disk.
func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	cfg, st := spawn(t)
	order(t, cfg.Dir, "flood")
	order(t, cfg.Dir, "print done;exit 1")
	if err := proc.Wait(t.Context(), st.Shim); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{shim.ConsoleFile, shim.VMMLog} {
		var size int64
		for _, n := range []string{name, name + ".1"} {
			info, err := os.Stat(filepath.Join(cfg.Dir, n))
			if err != nil {
				t.Fatal(err)
			}
			size += info.Size()
		}
		// The VMM's log is cut after the fact.
		if size < shim.DefaultLogLimit/8 || size > 2*shim.DefaultLogLimit {
			t.Errorf("%s and its older half have %d bytes", name, size)
		}
	}
}

// Streams of clients that were killed don't pile up, whether or not the guest
// has anything to say to them.
func TestDeadClientsLeaveNoStreams(t *testing.T) {
	t.Parallel()
	cfg, _ := spawn(t)
	for range 300 {
		c, err := shim.Dial(t.Context(), cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "e")
		c.(*net.UnixConn).CloseWrite()
		c.Close()
	}
	for range 300 {
		c, err := shim.Dial(t.Context(), cfg.Dir)
		for err != nil && strings.Contains(err.Error(), "too many") {
			c, err = shim.Dial(t.Context(), cfg.Dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// take opens so many streams that keep their places, as something was said on each.
func take(tb testing.TB, cfg shim.Config, streams int) {
	tb.Helper()
	for range streams {
		c, err := shim.Dial(tb.Context(), cfg.Dir)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = c.Close() })
		if _, err := io.WriteString(c, "e"); err != nil {
			tb.Fatal(err)
		}
	}
}

// Clients that say nothing take no places for ever.
func TestSilentClientsLeaveNoStreams(t *testing.T) {
	t.Parallel()
	cfg, _ := spawn(t)
	take(t, cfg, link.MaxStreams-1)
	for { // the first of these has the last place
		c, err := shim.Dial(t.Context(), cfg.Dir)
		if err != nil {
			break
		}
		defer c.Close()
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		c, err := shim.Dial(t.Context(), cfg.Dir)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// The daemon is killed 500 times and the shim 50 times while four streams run
// through both. Each object completes by offset, no byte is stale, nothing hangs.
func TestKillDaemonsAndShims(t *testing.T) {
	t.Parallel()
	daemons, shims := 500, 50
	if testing.Short() {
		daemons, shims = 50, 10
	}
	cfg, st := spawn(t)
	socket := filepath.Join(t.TempDir(), "d.sock")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()

	var moved atomic.Int64
	progress := make(chan struct{}, 1)
	note := func(n int) {
		moved.Add(int64(n))
		select {
		case progress <- struct{}{}:
		default:
		}
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		rnd := rand.New(rand.NewPCG(3, 4))
		st := st
		daemon := startDaemon(t, socket, cfg.Dir)
		defer func() { t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() }) }()
		for i := range daemons {
			for at := moved.Load() + rnd.Int64N(200_000); moved.Load() < at; {
				select {
				case <-progress:
				case <-ctx.Done():
					return
				}
			}
			if i%(daemons/shims) == 0 {
				kill(t, st.Shim)
				var err error
				if st, err = shim.Attach(ctx, exe(t), cfg.Dir, st.VMM); err != nil {
					t.Error(err)
					return
				}
			}
			daemon.Process.Kill()
			daemon.Wait()
			daemon = startDaemon(t, socket, cfg.Dir)
		}
	}()

	var wg sync.WaitGroup
	var completed, broken atomic.Int64
	for w := range uint32(4) {
		wg.Go(func() {
			for round := uint32(0); ; round++ {
				object := w<<24 | round
				var off int64
				for done := false; !done; {
					if ctx.Err() != nil {
						t.Errorf("hung: object %x at %d", object, off)
						return
					}
					c, err := net.Dial("unix", socket)
					if err != nil {
						continue
					}
					c.SetDeadline(time.Now().Add(time.Minute))
					if w%2 == 0 {
						off, err = download(c, object, off, note)
						done = off == objectSize
					} else {
						done, err = send(c, object, note)
					}
					c.Close()
					if err != nil {
						t.Errorf("object %x at %d: %v", object, off, err)
						return
					}
					if !done {
						broken.Add(1)
					}
				}
				completed.Add(1)
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	wg.Wait()
	<-over
	t.Logf("%d daemons and %d shims killed, %d streams broken, %d objects completed, %d MiB", daemons, shims, broken.Load(), completed.Load(), moved.Load()>>20)
}

func startDaemon(t *testing.T, socket, dir string) *exec.Cmd {
	cmd := exec.Command(exe(t), "fake-daemon", socket, dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Error(err)
		return cmd
	}
	io.ReadFull(out, make([]byte, len("ready\n")))
	return cmd
}

// A shim that took over after the guest's last word is told of it, and believes
// it unless the agent answers.
func TestHalted(t *testing.T) {
	t.Parallel()
	cfg, st := spawn(t)
	kill(t, st.Shim)
	if _, err := shim.Attach(t.Context(), exe(t), cfg.Dir, st.VMM); err != nil {
		t.Fatal(err)
	}
	if err := shim.Halted(t.Context(), cfg.Dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if exit, err := shim.Wait(ctx, cfg.Dir); err != nil || exit.Kind != banger.ExitHalt {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// Ports that can't be recorded aren't published: those of before are.
func TestPublishUnrecorded(t *testing.T) {
	t.Parallel()
	cfg, _ := spawn(t)
	var ports []banger.Published
	for range 2 {
		p, err := published.Host{}.Free(banger.Published{Guest: 80, Protocol: "tcp"}, func(q banger.Published) bool { return slices.ContainsFunc(ports, q.Clashes) })
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, p)
	}
	if err := shim.Publish(t.Context(), cfg.Dir, ports[:1], nil); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(cfg.Dir, shim.ConfigFile+".tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil { // nothing is written there
		t.Fatal(err)
	}
	if err := shim.Publish(t.Context(), cfg.Dir, ports[1:], nil); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("published without a record: %v", err)
	}
	for i, want := range []bool{true, false} {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[i].Port))
		if (err == nil) != want {
			t.Errorf("port %s: %v, want it published: %v", ports[i], err, want)
		}
		if err == nil {
			_ = c.Close()
		}
	}
	if err := os.Remove(tmp); err != nil {
		t.Fatal(err)
	}
	if err := shim.Publish(t.Context(), cfg.Dir, ports[1:], nil); err != nil {
		t.Error(err)
	}
}

package shim_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
	"banger/vmm/shim"
)

// spawnVsock starts a fake VM as Firecracker is one.
func spawnVsock(t *testing.T) (shim.Config, shim.Status) {
	t.Helper()
	cfg := config(t, "vsock")
	cfg.Channel, cfg.Vsock, cfg.Up, cfg.Console = "v.sock", 512, "api.sock", ""
	cfg.Pipes = []shim.Pipe{
		{Name: "console.fifo", Log: shim.ConsoleFile, Console: true}, {Name: "log.fifo", Log: shim.VMMLog},
	}
	st, err := shim.Spawn(t.Context(), exe(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, cfg.Dir, st.VMM) })
	return cfg, st
}

func echo(t *testing.T, dir, text string) {
	t.Helper()
	c, err := shim.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "e"+text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("echo of %q: %q, %v", text, got, err)
	}
}

// wantLogged waits until a log has a text.
func wantLogged(t *testing.T, path, text string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), text) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s has no %q, but %q, %v", path, text, b, err)
		}
	}
}

// A vsock's guest is reached as soon as it listens, and again by the next shim;
// what the VMM wrote to its pipes while there was none is kept.
func TestVsockAndPipes(t *testing.T) {
	cfg, st := spawnVsock(t)
	console := filepath.Join(cfg.Dir, shim.ConsoleFile)
	echo(t, cfg.Dir, "first")
	wantLogged(t, filepath.Join(cfg.Dir, shim.VMMLog), "fake-vmm: running")
	order(t, cfg.Dir, "say one")
	wantLogged(t, console, "one")
	if err := proc.Kill(st.Shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(t.Context(), st.Shim); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(filepath.Join(cfg.Dir, "console.fifo"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("nobody holds the pipe: %v", err)
	}
	if _, err := io.WriteString(out, "between shims\n"); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := shim.Attach(t.Context(), exe(t), cfg.Dir, st.VMM)
	if err != nil || again.VMM != st.VMM {
		t.Fatalf("Attach: %+v, %v", again, err)
	}
	echo(t, cfg.Dir, "second")
	wantLogged(t, console, "between shims")
	order(t, cfg.Dir, "say reboot: Power down;exit 0")
	exit, err := shim.Wait(t.Context(), cfg.Dir)
	if err != nil || exit.Kind != banger.ExitPoweroff {
		t.Errorf("Wait: %+v, %v; want kind %q", exit, err, banger.ExitPoweroff)
	}
}

// A console that is a pipe is bounded as well.
func TestPipesAreBounded(t *testing.T) {
	cfg, st := spawnVsock(t)
	order(t, cfg.Dir, "flood")
	end(t, cfg.Dir, st.VMM)
	var size int64
	for _, name := range []string{shim.ConsoleFile, shim.ConsoleFile + ".1"} {
		if fi, err := os.Stat(filepath.Join(cfg.Dir, name)); err == nil {
			size += fi.Size()
		}
	}
	if size == 0 || size > shim.DefaultLogLimit {
		t.Errorf("3 MB on the console left %d bytes, want 1 to %d", size, shim.DefaultLogLimit)
	}
}

// A jailed VMM that puts a link in its pipe's place shows its shim nothing.
func TestPipeReplaced(t *testing.T) {
	cfg, st := spawnVsock(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a secret of the host's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := proc.Kill(st.Shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(t.Context(), st.Shim); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(cfg.Dir, "log.fifo")
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, pipe); err != nil {
		t.Fatal(err)
	}
	if _, err := shim.Attach(t.Context(), exe(t), cfg.Dir, st.VMM); err != nil {
		t.Fatalf("a VM was lost for its log: %v", err)
	}
	echo(t, cfg.Dir, "still there")
	end(t, cfg.Dir, st.VMM) // all is drained when the shim has ended
	for _, log := range []string{shim.VMMLog, shim.ConsoleFile, "shim.log"} {
		if b, err := os.ReadFile(filepath.Join(cfg.Dir, log)); err == nil && strings.Contains(string(b), "secret of") {
			t.Errorf("%s: %q", log, b)
		}
	}
}

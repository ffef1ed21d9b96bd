package jail_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/guest"
	"banger/host/proc"
	"banger/vmm/jail"
	"banger/vmm/publish"
	"banger/vmm/shim"
)

// The test's program is banger-jail, what runs in the VMM's place, and the shim beside them.
func TestMain(m *testing.M) {
	jail.Process()
	if os.Getenv(asShim) != "" {
		os.Unsetenv(asShim)
		os.Exit(shim.Main(os.Args[1:], hello, jail.Jailer{}, func(to guest.Dialer, born time.Time) shim.Ports { return publish.New(to, born) }))
	}
	var err error
	if jail.Scratch, err = os.MkdirTemp("", "jail-test-"); err != nil {
		panic(err)
	}
	status := m.Run()
	os.RemoveAll(jail.Scratch)
	os.Exit(status)
}

const asShim = "BANGER_TEST_SHIM"

// hello is a user network that says so, and writes down what comes back.
func hello(_ shim.NetConfig, frames *os.File) (io.Closer, error) {
	if frames == nil {
		return nil, errors.New("no frames")
	}
	go func() {
		_, err := fmt.Fprintf(frames, "hello from %d", os.Getpid())
		buf := make([]byte, 100)
		if err == nil {
			var n int
			n, err = frames.Read(buf)
			buf = buf[:n]
		}
		_ = os.WriteFile(heard(os.Getpid()), fmt.Appendf(nil, "%s %v", buf, err), 0o600)
	}()
	return frames, nil
}

func heard(shim int) string { return fmt.Sprintf("heard-%d", shim) }

// To a shim, the first process of a jail is the VMM. When the shim dies, the next one
// has the frames again, and knows how the VMM ended though it isn't its parent.
func TestShim(t *testing.T) {
	jail.NeedJail(t)
	s := jail.SpecOf(t, "echo")
	s.Pairs = []jail.Pair{{Name: "frames", Type: "seqpacket"}}
	cfg := shim.Config{
		ID: "0123456789ab", Dir: s.Dir, Argv: []string{jail.Program(t)}, Jail: text(t, s),
		Channel: "v.sock", Vsock: 512, Up: jail.SocketFile, Net: &shim.NetConfig{Pair: "frames"},
	}
	t.Setenv(asShim, "1")
	st, err := shim.Spawn(t.Context(), jail.Program(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proc.Kill(st.VMM, unix.SIGKILL) })
	if pid, err := jail.Listener(t.Context(), s.Dir); err != nil || pid != st.VMM.PID {
		t.Errorf("process %d is the jail's first, the shim has %d, %v", pid, st.VMM.PID, err)
	}
	awaitWord(t, s.Dir, st.Shim)
	if err := proc.Kill(st.Shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(t.Context(), st.Shim); err != nil {
		t.Fatal(err)
	}
	next, err := shim.Attach(t.Context(), jail.Program(t), s.Dir, st.VMM)
	if err != nil || next.VMM != st.VMM || next.Shim == st.Shim {
		t.Fatalf("%+v in place of %+v, %v", next, st, err)
	}
	awaitWord(t, s.Dir, next.Shim)
	if err := proc.Kill(st.VMM, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	exit, err := shim.Wait(t.Context(), s.Dir)
	if err != nil || exit.Kind != banger.ExitKilled || exit.Detail != "SIGTERM" || exit.Status != 143 {
		t.Errorf("%+v, %v", exit, err)
	}
	if err := proc.Wait(t.Context(), next.Shim); err != nil {
		t.Error(err)
	}
}

// What keeps a jail from being made is the error of the VM's start, and nothing is left of it.
func TestShimWithoutJail(t *testing.T) {
	jail.NeedJail(t)
	s := jail.SpecOf(t, "echo")
	s.Files = append(s.Files, jail.File{Host: "/nowhere/kernel", At: "/kernel"})
	t.Setenv(asShim, "1")
	_, err := shim.Spawn(t.Context(), jail.Program(t), shim.Config{
		ID: "0123456789ab", Dir: s.Dir, Argv: []string{jail.Program(t)}, Jail: text(t, s), Channel: "v.sock", Vsock: 512, Up: jail.SocketFile,
	})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/kernel") {
		t.Errorf("got %v", err)
	}
	if _, err := jail.Listener(t.Context(), s.Dir); err == nil {
		t.Error("a jail is left")
	}
}

func text(t *testing.T, s jail.Spec) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// awaitWord waits until a shim has written down what it heard from the VMM.
func awaitWord(t *testing.T, dir string, by banger.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want := fmt.Sprintf("HELLO FROM %d <nil>", by.PID)
	for ctx.Err() == nil {
		if data, err := os.ReadFile(filepath.Join(dir, heard(by.PID))); err == nil && string(data) == want {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, heard(by.PID)))
	t.Fatalf("want %q, got %q, %v", want, data, err)
}

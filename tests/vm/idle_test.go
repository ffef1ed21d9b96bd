package vm_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
)

// configured is the shared installation with a config.toml, and with it a daemon,
// of its own.
func configured(t *testing.T, toml string) *host {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "banger"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "banger", "config.toml"), onHypervisor()+toml)
	shared.close()
	h := &host{bin: shared.bin, state: shared.state, env: append(slices.Clip(shared.env), "XDG_CONFIG_HOME="+dir)}
	t.Cleanup(h.close) // the next test's daemon has its own settings again
	return h
}

// A VM that nobody uses is stopped when the user asked for that, and not while a
// command runs in it, whoever follows that.
func TestAutoStop(t *testing.T) {
	h := configured(t, "auto_stop_stale_after = '5s'\n")
	h.ok(t, "vm", "create", "--name", "idle")
	defer h.ok(t, "vm", "delete", "idle")
	exec := h.command(t.Context(), "vm", "exec", "idle", "--", "sh", "-c", "echo up; sleep 25; touch /root/slept")
	out, err := exec.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	kill(t, exec.Process.Pid) // the command in the guest goes on
	_ = exec.Wait()
	began := time.Now()
	// Asking for the VM's record is no use of the VM.
	until(t, "the VM to be stopped", 3*time.Minute, func() bool { return h.show(t, "idle").State == banger.Stopped })
	vm := h.show(t, "idle")
	t.Logf("stopped after %s: %s", time.Since(began), vm.Reason)
	if !strings.HasPrefix(vm.Reason, "nobody used it for 5s; ") || vm.Exit == nil || vm.Exit.Kind != banger.ExitPoweroff {
		t.Errorf("reason %q, exit %+v", vm.Reason, vm.Exit)
	}
	h.ok(t, "vm", "start", "idle")
	h.ok(t, "vm", "exec", "idle", "--", "test", "-e", "/root/slept")
	if !vm.Held.Empty() {
		t.Errorf("a stopped VM holds %+v", vm.Held)
	}
}

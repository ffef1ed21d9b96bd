package vm_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/proc"
)

// What logind does when a user without linger logs out, done by hand: it removes
// the runtime directory, and, with KillUserProcesses=yes, ends what the user
// has, lingering or not. (tests/lab has the real one.) VMs run on in the first case,
// in the second they are found stopped at the next login; nothing is left of them, and what
// they synced is there.
func TestLogout(t *testing.T) {
	h, before := apart(t)
	runtime := filepath.Join(shared.dir(), "run2")
	login := func() {
		if err := os.Mkdir(runtime, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.close()
	h.env = append(slices.Clip(h.env), "XDG_RUNTIME_DIR="+runtime)
	login()
	h.ok(t, "vm", "create", "--name", "stays")
	boot := func() string {
		return h.ok(t, "vm", "exec", "stays", "--", "cat", "/proc/sys/kernel/random/boot_id")
	}
	was, vm := boot(), h.show(t, "stays")
	h.ok(t, "vm", "exec", "stays", "--", "sh", "-c", "echo kept > /root/kept; sync")

	// KillUserProcesses=no
	daemon := h.daemon(t)
	if err := os.RemoveAll(runtime); err != nil {
		t.Fatal(err)
	}
	until(t, "a daemon that nobody can reach to end", time.Minute, func() bool { return !alive(daemon) })
	if !proc.Alive(vm.Held.VMM) || !proc.Alive(vm.Held.Shim) {
		t.Fatal("the VM ended with the login")
	}
	login()
	if now := boot(); now != was {
		t.Error("after the next login it is another boot")
	}

	// KillUserProcesses=yes
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		for _, p := range h.processes() {
			_ = proc.Kill(p.Process, sig) // it may have ended
		}
	}
	for _, p := range []banger.Process{vm.Held.VMM, vm.Held.Shim} {
		if err := proc.Wait(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(runtime); err != nil {
		t.Fatal(err)
	}
	login()
	until(t, "the end to be noticed", 30*time.Second, func() bool { return h.show(t, "stays").State == banger.Stopped })
	if now := h.show(t, "stays"); !now.Held.Empty() || now.Reason == "" {
		t.Errorf("stopped: %q, %+v", now.Reason, now.Held)
	}
	h.ok(t, "vm", "start", "stays")
	if kept := h.ok(t, "vm", "exec", "stays", "--", "cat", "/root/kept"); kept != "kept\n" {
		t.Errorf("a synced file reads %q", kept)
	}
	h.ok(t, "vm", "delete", "stays")
	h.close()
	if err := os.RemoveAll(runtime); err != nil {
		t.Fatal(err)
	}
	h.env = append(slices.Clip(h.env), "XDG_RUNTIME_DIR="+filepath.Join(shared.dir(), "run"))
	h.same(t, before, time.Minute)
}

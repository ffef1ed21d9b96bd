package vm_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
	"banger/test/vmtest"
)

// What logind does when a user without linger logs out, done by hand: it removes
// the runtime directory, of which we have nothing, and, with KillUserProcesses=yes,
// ends what the user has, lingering or not. (test/lab/inside has the real one.) VMs are then
// found stopped at the next login; nothing is left of them, and what they synced is there.
func TestLogout(t *testing.T) {
	h, before := vmtest.Apart(t)
	h.OK(t, "vm", "create", "--name", "stays")
	vm := h.Show(t, "stays")
	h.OK(t, "vm", "exec", "stays", "--", "sh", "-c", "echo kept > /root/kept; sync")

	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		for _, p := range h.Processes() {
			_ = proc.Kill(p.Process, sig) // it may have ended
		}
	}
	for _, p := range []banger.Process{vm.Held.VMM, vm.Held.Shim} {
		if err := proc.Wait(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	vmtest.Until(t, "the end to be noticed", 30*time.Second, func() bool { return h.Show(t, "stays").State == banger.Stopped })
	if now := h.Show(t, "stays"); !now.Held.Empty() || now.Reason == "" {
		t.Errorf("stopped: %q, %+v", now.Reason, now.Held)
	}
	h.OK(t, "vm", "start", "stays")
	if kept := h.OK(t, "vm", "exec", "stays", "--", "cat", "/root/kept"); kept != "kept\n" {
		t.Errorf("a synced file reads %q", kept)
	}
	h.OK(t, "vm", "delete", "stays")
	h.Same(t, before, time.Minute)
}

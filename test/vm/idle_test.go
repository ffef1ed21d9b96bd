package vm_test

import (
	"strings"
	"testing"
	"time"

	"banger"
	"banger/test/vmtest"
)

// A VM that nobody uses is stopped when the user asked for that, and not while a
// command runs in it, whoever follows that.
func TestAutoStop(t *testing.T) {
	h := vmtest.Configured(t, "auto_stop_stale_after = '5s'\n")
	h.OK(t, "vm", "create", "--name", "idle")
	defer h.OK(t, "vm", "delete", "idle")
	exec := h.Command(t.Context(), "vm", "exec", "idle", "--", "sh", "-c", "echo up; sleep 25; touch /root/slept")
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
	vmtest.Kill(t, exec.Process.Pid) // the command in the guest goes on
	_ = exec.Wait()
	began := time.Now()
	// Asking for the VM's record is no use of the VM.
	vmtest.Until(t, "the VM to be stopped", 3*time.Minute, func() bool { return h.Show(t, "idle").State == banger.Stopped })
	vm := h.Show(t, "idle")
	t.Logf("stopped after %s: %s", time.Since(began), vm.Reason)
	if !strings.HasPrefix(vm.Reason, "nobody used it for 5s; ") || vm.Exit == nil || vm.Exit.Kind != banger.ExitPoweroff {
		t.Errorf("reason %q, exit %+v", vm.Reason, vm.Exit)
	}
	h.OK(t, "vm", "start", "idle")
	h.OK(t, "vm", "exec", "idle", "--", "test", "-e", "/root/slept")
	if !vm.Held.Empty() {
		t.Errorf("a stopped VM holds %+v", vm.Held)
	}
}

// Each VM may have times of its own: one runs for so long and no longer, whoever uses it,
// and has the same time at its next start; one is stopped when nobody used it.
func TestTimesOfItsOwn(t *testing.T) {
	h := vmtest.Configured(t, "")
	h.OK(t, "vm", "create", "--name", "brief", "--ttl", "12s")
	h.OK(t, "vm", "create", "--name", "idle", "--idle-stop", "5s")
	defer h.OK(t, "vm", "delete", "brief", "idle")
	using := h.Command(t.Context(), "exec", "brief", "--", "sleep", "600")
	if err := using.Start(); err != nil {
		t.Fatal(err)
	}
	for _, round := range []string{"made", "started again"} {
		for name, why := range map[string]string{"brief": "its time to live, 12s, is over", "idle": "nobody used it for 5s"} {
			vmtest.Until(t, name+" to be stopped", 3*time.Minute, func() bool { return h.Show(t, name).State == banger.Stopped })
			vm := h.Show(t, name)
			if !strings.HasPrefix(vm.Reason, why) || vm.Exit == nil || vm.Exit.Kind != banger.ExitPoweroff || !vm.Held.Empty() {
				t.Errorf("%s, %s: reason %q, exit %+v, holds %+v", name, round, vm.Reason, vm.Exit, vm.Held)
			}
			if ran := vm.Stopped.Sub(vm.Started); ran < 5*time.Second {
				t.Errorf("%s, %s: it ran for %s", name, round, ran)
			}
		}
		if round == "made" {
			if err := using.Wait(); err == nil {
				t.Error("a command in a VM whose time was over succeeded")
			}
			h.OK(t, "start", "brief", "idle")
		}
	}
}

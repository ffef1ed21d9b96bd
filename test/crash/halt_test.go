package crash_test

import (
	"bufio"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/host/proc"
	"banger/test/vmtest"
)

// A guest halts while neither daemon nor shim lives: nobody hears its last word,
// and its VMM would run for ever.
func TestHaltUnseen(t *testing.T) {
	if *vmtest.Hypervisor == "uml" {
		t.Skip("User-mode Linux ends when its guest halts; this runs on QEMU")
	}
	name := vmtest.Shared.NewVM(t, "--vcpu", "2")
	vm := vmtest.Shared.Show(t, name)
	dir := filepath.Dir(handlesFile(t, vmtest.Shared, vm.ID))
	vmtest.Shared.OK(t, "vm", "exec", name, "--", "sh", "-c", "(sleep 2; exec halt -f) >/dev/null 2>&1 &")
	vmtest.Kill(t, vmtest.Shared.Daemon(t))
	vmtest.Kill(t, vm.Held.Shim.PID)
	var heard net.Conn
	vmtest.Until(t, "the console", 10*time.Second, func() bool {
		var err error
		heard, err = net.Dial("unix", filepath.Join(dir, "console.sock"))
		return err == nil
	})
	_ = heard.SetReadDeadline(time.Now().Add(time.Minute)) // a Unix socket always can
	console := bufio.NewScanner(heard)
	for console.Scan() && !strings.Contains(console.Text(), "System halted") {
	}
	if err := console.Err(); err != nil || !proc.Alive(vm.Held.VMM) {
		t.Fatalf("the guest didn't halt while nobody listened: %v", err)
	}
	_ = heard.Close()
	vmtest.Until(t, "the end to be noticed", 30*time.Second, func() bool { return vmtest.Shared.Show(t, name).State == banger.Stopped })
	if now := vmtest.Shared.Show(t, name); now.Exit == nil || now.Exit.Kind != banger.ExitHalt || proc.Alive(vm.Held.VMM) {
		t.Errorf("ended as %+v, VMM alive: %v", now.Exit, proc.Alive(vm.Held.VMM))
	}
}

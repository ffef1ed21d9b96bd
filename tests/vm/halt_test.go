package vm_test

import (
	"bufio"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/proc"
)

// A guest halts while neither daemon nor shim lives: nobody hears its last word,
// and its VMM would run for ever.
func TestHaltUnseen(t *testing.T) {
	name := shared.newVM(t, "--vcpu", "2")
	vm := shared.show(t, name)
	dir := filepath.Dir(shared.handlesFile(t, vm.ID))
	shared.ok(t, "vm", "exec", name, "--", "sh", "-c", "(sleep 2; exec halt -f) >/dev/null 2>&1 &")
	kill(t, shared.daemon(t))
	kill(t, vm.Held.Shim.PID)
	var heard net.Conn
	until(t, "the console", 10*time.Second, func() bool {
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
	until(t, "the end to be noticed", 30*time.Second, func() bool { return shared.show(t, name).State == banger.Stopped })
	if now := shared.show(t, name); now.Exit == nil || now.Exit.Kind != banger.ExitHalt || proc.Alive(vm.Held.VMM) {
		t.Errorf("ended as %+v, VMM alive: %v", now.Exit, proc.Alive(vm.Held.VMM))
	}
}

package vm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/host/cgroup"
	"banger/test/vmtest"
)

// A VM that goes beyond the memory it may have with its shim is stopped and says why, and
// starts again. Its bound is lowered here, as no guest is known that goes beyond its own.
func TestBeyondItsMemory(t *testing.T) {
	if way, err := cgroup.Find(); err != nil {
		t.Skip("not run: ", err)
	} else {
		t.Log(way)
	}
	name := vmtest.Shared.NewVM(t)
	before := vmtest.Shared.Show(t, name)
	g, err := cgroup.Of(before.Held.VMM.PID)
	if err != nil || !strings.Contains(g.Dir, before.ID) {
		t.Fatalf("its VMM is in %+v, %v", g, err)
	}
	used, err := g.Usage()
	if err != nil {
		t.Fatal(err)
	}
	limit := filepath.Join(g.Dir, "memory.max")
	if _, err := os.Stat(limit); err != nil {
		limit = filepath.Join(g.Dir, "memory.limit_in_bytes")
	}
	if err := os.WriteFile(limit, fmt.Append(nil, used+16<<20), 0); err != nil {
		t.Fatal(err)
	}
	vmtest.Shared.Run(nil, "vm", "exec", name, "--", "sh", "-c", "mount -t tmpfs none /mnt; head -c 400M /dev/urandom >/mnt/x")
	var vm banger.VM
	vmtest.Until(t, "its end", 3*time.Minute, func() bool { vm = vmtest.Shared.Show(t, name); return vm.State == banger.Stopped })
	if vm.Exit == nil || vm.Exit.Kind != banger.ExitFailed || !strings.Contains(vm.Reason, "want of memory") {
		t.Errorf("it ended as %+v, %q", vm.Exit, vm.Reason)
	}
	vmtest.Until(t, "its group to go", 10*time.Second, func() bool { _, err := os.Stat(g.Dir); return err != nil }) // systemd has to see the end
	vmtest.Shared.OK(t, "vm", "start", name)
	vmtest.Shared.OK(t, "vm", "exec", name, "--", "true")
}

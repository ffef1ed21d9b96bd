package crash_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
	"banger/test/vmtest"
)

// hostDrivers reports whether VMs have objects of the host's kernel.
func hostDrivers() bool { return *vmtest.DiskDriver == "dm-snapshot" && *vmtest.Network == "bridge" }

// objects says of each thing in a VM's handles that it is in the host's kernel, and
// that it is what it should be.
func objects(h banger.Handles) map[string]bool {
	is := func(path string) bool { _, err := os.Stat(path); return err == nil }
	loop := func(dev, file string) bool {
		b, _ := os.ReadFile(filepath.Join("/sys/block", filepath.Base(dev), "loop/backing_file"))
		return dev != "" && filepath.Base(strings.TrimSpace(string(b))) == file
	}
	dm := filepath.Join("/sys/block", filepath.Base(h.DMDev))
	name, _ := os.ReadFile(filepath.Join(dm, "dm/name"))
	return map[string]bool{
		"process":       proc.Alive(h.VMM),
		"TAP":           h.Tap != "" && is(filepath.Join("/sys/class/net", h.Tap)),
		"COW loop":      loop(h.COWLoop, "disk.cow"),
		"base loop":     h.BaseLoop != "" && is(filepath.Join("/sys/block", filepath.Base(h.BaseLoop), "loop/backing_file")),
		"device-mapper": h.DMName != "" && strings.TrimSpace(string(name)) == h.DMName,
		"on the loops":  is(filepath.Join(dm, "slaves", filepath.Base(h.COWLoop))) && is(filepath.Join(dm, "slaves", filepath.Base(h.BaseLoop))),
	}
}

// wantObjects holds a VM's objects to being there or not. The base's loop is there
// while another VM runs.
func wantObjects(t *testing.T, when string, h banger.Handles, there bool) {
	t.Helper()
	if !hostDrivers() {
		return
	}
	for what, is := range objects(h) {
		if is != there && (there || what != "base loop") {
			t.Errorf("%s: %s: there %v, want %v (%+v)", when, what, is, there, h)
		}
	}
}

// strangers are a loop and a device like those of VMs, that aren't ours, as handles. They must be
// there when the test ends.
func strangers(t *testing.T) map[string]any {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk.cow")
	vmtest.Write(t, file, strings.Repeat("\x00", 1<<20))
	sh := func(argv ...string) string {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("a stranger's object: %s: %v: %s", strings.Join(argv, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	loop := sh("losetup", "-f", "--show", file)
	dm := fmt.Sprintf("banger-strange%d", vmtest.Serial())
	sh("dmsetup", "create", dm, "--table", "0 8 error")
	t.Cleanup(func() { // each of these fails if it is gone
		sh("losetup", "-d", loop)
		sh("dmsetup", "remove", "--retry", dm)
	})
	return map[string]any{"base_loop": loop, "cow_loop": loop, "dm_name": dm, "dm_dev": "/dev/mapper/" + dm}
}

// The seed: process, TAP, loops and device of a running VM are found again by the
// next daemon, and torn down when the VMM is gone; a device that somebody has open
// stays in the record, over a daemon's death too, until it was seen gone.
// (TestHandlesFile has the rows about handles.json.)
func TestSeed(t *testing.T) {
	if !hostDrivers() {
		t.Skip("not run: VMs have no TAPs, loops and devices without -disk-driver dm-snapshot -net bridge")
	}
	h, before := vmtest.Apart(t)
	h.OK(t, "vm", "create", "--name", "victim")
	h.OK(t, "vm", "create", "--name", "other")
	boot := func(name string) string {
		return h.OK(t, "vm", "exec", name, "--", "cat", "/proc/sys/kernel/random/boot_id")
	}
	vm, was := h.Show(t, "victim"), boot("victim")
	other, otherWas := h.Show(t, "other"), boot("other")
	wantObjects(t, "running", vm.Held, true)
	if other.Held.BaseLoop != vm.Held.BaseLoop {
		t.Errorf("the base isn't shared: %s and %s", vm.Held.BaseLoop, other.Held.BaseLoop)
	}
	h.OK(t, "vm", "exec", "victim", "--", "sh", "-c", "echo kept > /root/kept; sync")
	vmtest.Kill(t, h.Daemon(t))
	if now := h.Show(t, "victim"); now.State != banger.Running || now.Held != vm.Held || boot("victim") != was {
		t.Errorf("after the daemon's death: %s with %+v, was %+v", now.State, now.Held, vm.Held)
	}
	wantObjects(t, "after the daemon's death", vm.Held, true)

	holder, err := os.Open(vm.Held.DMDev)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	for _, p := range []banger.Process{vm.Held.Shim, vm.Held.VMM} {
		if p == (banger.Process{}) {
			continue // a driver without a shim
		}
		_ = proc.Kill(p, unix.SIGKILL)
		if err := proc.Wait(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	disk := vm.Held.Of(banger.DiskHandles)
	for _, when := range []string{"while the device is busy", "after another daemon's death"} {
		vmtest.Until(t, "the rest to be torn down", time.Minute, func() bool { return h.Show(t, "victim").Held == disk })
		if now := h.Show(t, "victim"); now.State == banger.Stopped || now.State == banger.Running {
			t.Errorf("%s the VM is %s", when, now.State)
		}
		if got := objects(vm.Held); got["TAP"] || !got["device-mapper"] || !got["COW loop"] {
			t.Errorf("%s there are %v", when, got)
		}
		vmtest.Kill(t, h.Daemon(t))
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	vmtest.Until(t, "the device to be seen gone", time.Minute, func() bool {
		now := h.Show(t, "victim")
		return now.State == banger.Stopped && now.Held.Empty()
	})
	wantObjects(t, "stopped", vm.Held, false)
	if now := h.Show(t, "other"); now.Held != other.Held || boot("other") != otherWas {
		t.Errorf("the other VM was touched: %+v, was %+v", now.Held, other.Held)
	}
	h.OK(t, "vm", "start", "victim")
	if kept := h.OK(t, "vm", "exec", "victim", "--", "cat", "/root/kept"); kept != "kept\n" {
		t.Errorf("a synced file reads %q", kept)
	}
	h.OK(t, "vm", "delete", "victim", "other")
	h.Same(t, before, time.Minute)
}

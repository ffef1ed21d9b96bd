package vm_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/test/vmtest"
)

var upgradeFrom = flag.String("upgrade-from", "", "a folder with the programs of an earlier build, of which an installation is made and then upgraded to this one")

// An installation that an earlier build made goes on under this one: a VM that
// runs keeps its boot, a stopped one its disk, and both stop, start and go. The
// earlier build then refuses what this one wrote, and loses nothing by it.
func TestUpgrade(t *testing.T) {
	if *upgradeFrom == "" {
		t.Skip("left out: run it with -upgrade-from, the bin folder of an earlier build")
	}
	h := installOf(t, *upgradeFrom)
	h.OK(t, "vm", "create", "--name", "runs")
	h.OK(t, "vm", "create", "--name", "stands")
	for _, name := range []string{"runs", "stands"} {
		h.OK(t, "vm", "exec", name, "--", "sh", "-c", "echo "+name+" >/root/kept; sync")
	}
	h.OK(t, "vm", "stop", "stands")
	bootID := func() string { return h.OK(t, "vm", "exec", "runs", "--", "cat", "/proc/sys/kernel/random/boot_id") }
	boot, before := bootID(), h.Show(t, "runs")
	long := h.Command(t.Context(), "vm", "exec", "runs", "--", "sh", "-c", "echo begun; sleep 20; echo ended") // over the upgrade
	var said bytes.Buffer
	long.Stdout, long.Stderr = &said, &said
	if err := long.Start(); err != nil {
		t.Fatal(err)
	}

	programs(t, vmtest.Shared.Bin, h.Bin)
	if got := bootID(); got != boot {
		t.Errorf("the running VM's boot id was %q and is %q", boot, got)
	}
	if now := h.Show(t, "runs"); now.Held.VMM != before.Held.VMM || now.State != banger.Running || now.Boots != before.Boots {
		t.Errorf("it was %+v and is %+v", before, now)
	}
	if err := long.Wait(); err != nil || said.String() != "begun\nended\n" {
		t.Errorf("the command that ran through the upgrade said %q: %v", said.String(), err)
	}

	// Back to the earlier build: it says why it can't, and changes nothing.
	h.Close()
	records := filepath.Join(h.State, "banger", "banger.db")
	written, err := os.ReadFile(records)
	if err != nil {
		t.Fatal(err)
	}
	programs(t, *upgradeFrom, h.Bin)
	if r := h.Run(nil, "vm", "list"); r.Status == 0 || !strings.Contains(string(r.Stderr), "newer") {
		t.Errorf("the earlier build, on this one's records: status %d, %s", r.Status, r.Stderr)
	}
	if again, err := os.ReadFile(records); err != nil || !bytes.Equal(again, written) {
		t.Errorf("the earlier build changed the records (%v)", err)
	}
	programs(t, vmtest.Shared.Bin, h.Bin)
	if got := bootID(); got != boot {
		t.Errorf("after the way back and forth the boot id was %q and is %q", boot, got)
	}

	h.OK(t, "vm", "stop", "runs")
	for _, name := range []string{"runs", "stands"} {
		h.OK(t, "vm", "start", name)
		if kept := h.OK(t, "vm", "exec", name, "--", "cat", "/root/kept"); kept != name+"\n" {
			t.Errorf("the file on the disk of %s reads %q", name, kept)
		}
	}
	h.OK(t, "vm", "delete", "runs", "stands")
	vmtest.Until(t, "nothing to be left", time.Minute, func() bool {
		return !slices.ContainsFunc(h.Processes(), func(p vmtest.Process) bool { return p.Kind == "shim" || p.Kind == "vmm" })
	})
	if left, err := os.ReadDir(filepath.Join(h.State, "banger", "vms")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// installOf makes an installation of its own with the programs of a folder.
func installOf(t *testing.T, bin string) *vmtest.Host {
	t.Helper()
	dir := t.TempDir()
	h := &vmtest.Host{Bin: filepath.Join(dir, "bin"), State: filepath.Join(dir, "state")}
	h.Env = append(slices.Clone(vmtest.Shared.Env), "XDG_STATE_HOME="+h.State, "XDG_DATA_HOME="+filepath.Join(dir, "data"), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	if err := os.MkdirAll(filepath.Join(dir, "data/banger"), 0o700); err != nil {
		t.Fatal(err)
	}
	programs(t, bin, h.Bin)
	t.Cleanup(h.Close)
	kernels := filepath.Join(vmtest.Shared.Dir(), "data/banger/kernels")
	if out, err := exec.Command("cp", "-a", kernels, filepath.Join(dir, "data/banger/")).CombinedOutput(); err != nil {
		t.Fatalf("copy the kernels: %v: %s", err, out)
	}
	h.OK(t, "kernel", "pull")
	h.OK(t, "image", "import", "--name", vmtest.Image, vmtest.Shared.Tar)
	return h
}

// programs puts the programs of one folder into another, as an upgrade does: each
// by a rename, so that those that run keep what they have.
func programs(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"banger", "bangerd", "banger-shim", "banger-agent"} {
		out, err := exec.Command("cp", filepath.Join(from, p), filepath.Join(to, p+".new")).CombinedOutput()
		if err = errors.Join(err, os.Rename(filepath.Join(to, p+".new"), filepath.Join(to, p))); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

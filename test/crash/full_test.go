package crash_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/test/vmtest"
)

// small is a filesystem of 64 MiB.
type small struct {
	dir string
}

// newSmall mounts one.
func newSmall(t *testing.T, kind string) *small {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small filesystem")
	}
	s := &small{dir: t.TempDir()}
	var mount *exec.Cmd
	switch kind {
	case "tmpfs":
		mount = exec.Command("mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "banger-test", s.dir)
	case "ext4":
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, 64<<20); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-m", "0", image).CombinedOutput(); err != nil {
			t.Fatalf("mke2fs: %v: %s", err, out)
		}
		mount = exec.Command("mount", "-o", "loop", image, s.dir)
	}
	if out, err := mount.CombinedOutput(); err != nil {
		t.Skipf("no %s can be mounted here: %v: %s", kind, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", s.dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return s
}

// leave fills the filesystem until at most so many bytes are left; -1 empties it
// of what filled it.
func (s *small) leave(t *testing.T, bytes int64) {
	t.Helper()
	path := filepath.Join(s.dir, "filler")
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if bytes < 0 {
		return
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const block = 4 << 10
	for size := int64(0); ; {
		unix.Sync() // what is only promised counts too
		var st unix.Statfs_t
		if err := unix.Statfs(s.dir, &st); err != nil {
			t.Fatal(err)
		}
		more := int64(st.Bavail)*st.Bsize - bytes
		if more <= 0 {
			return
		}
		// What there is isn't all for files.
		err := unix.Fallocate(int(f.Fd()), 0, size, more)
		for ; err == unix.ENOSPC && more > block; err = unix.Fallocate(int(f.Fd()), 0, size, more) {
			more /= 2
		}
		if err == unix.ENOSPC {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		size += more
	}
}

// whole waits until each VM the installation has is at rest in the state wanted,
// and there are no others.
func whole(t *testing.T, h *vmtest.Host, want map[string]banger.State) {
	t.Helper()
	vmtest.Until(t, fmt.Sprintf("the VMs to be %v", want), time.Minute, func() bool {
		vms := h.List(t)
		return len(vms) == len(want) && !slices.ContainsFunc(vms, func(vm banger.VM) bool {
			return vm.State != want[vm.Spec.Name] || vm.State == banger.Stopped && !vm.Held.Empty()
		})
	})
	dirs, err := os.ReadDir(filepath.Join(h.State, "banger", "vms"))
	if err != nil && !os.IsNotExist(err) || len(dirs) != len(want) {
		t.Errorf("directories %v, %v", dirs, err)
	}
}

// fullStep is by how much more room the next try has.
var fullStep = flag.Int64("full-step", 16<<10, "by how many bytes the room for a creation grows from try to try")

// The host's disk is full at every moment of a creation, a start, and a run:
// each try has a little more room than the last, until there is enough. Who fails
// says why and leaves nothing; a VM that runs runs on; what is synced stays.
func TestDiskFull(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			fs := newSmall(t, kind)
			vmtest.Shared.Close()
			h := vmtest.Shared.With("XDG_STATE_HOME="+fs.dir, "XDG_DATA_HOME="+t.TempDir())
			h.State = fs.dir
			t.Cleanup(h.Close) // before the filesystem goes
			supply(t, h)
			fullCreate(t, h, fs)
			fullStart(t, h, fs)
			fullRun(t, h, fs)
			h.OK(t, "vm", "delete", "full")
			whole(t, h, nil)
		})
	}
}

// supply gives an installation of its own a kernel and the default image.
func supply(t *testing.T, h *vmtest.Host) {
	t.Helper()
	h.OK(t, "kernel", "pull")
	h.OK(t, "image", "import", "--name", vmtest.Image, h.Tar)
}

// enough is the room with which a try must have succeeded.
const enough = 20 << 20

// grudging repeats a command with ever more room until it succeeds. Each failure
// must say that the disk is full, and what to do.
func grudging(t *testing.T, fs *small, step int64, try func(n int) vmtest.Result, failed func()) {
	t.Helper()
	said := map[string]int{}
	n := 0
	for room := int64(0); ; room += step {
		fs.leave(t, room)
		r := try(n)
		n++
		fs.leave(t, -1)
		if r.Status == 0 {
			break
		}
		text := string(r.Stderr)
		if !strings.Contains(text, "make room") {
			t.Errorf("with %d bytes left it fails with %d and says: %s", room, r.Status, text)
		}
		said[strings.ReplaceAll(strings.TrimSpace(text), fmt.Sprint("full", n-1), "VM")]++
		failed()
		if t.Failed() || room > enough {
			t.Fatalf("still fails with %d bytes left: %s", room, text)
		}
	}
	t.Logf("%d tries failed first", n-1)
	for what, times := range said {
		t.Logf("  %d times %s", times, what)
	}
	if n == 1 {
		t.Error("the disk was never full")
	}
}

func fullCreate(t *testing.T, h *vmtest.Host, fs *small) {
	name := ""
	grudging(t, fs, *fullStep, func(n int) vmtest.Result {
		name = fmt.Sprintf("full%d", n)
		return h.Run(nil, "vm", "create", "--no-start", "--name", name)
	}, func() { whole(t, h, nil) })
	h.OK(t, "vm", "rename", name, "full")
	whole(t, h, map[string]banger.State{"full": banger.Stopped})
}

func fullStart(t *testing.T, h *vmtest.Host, fs *small) {
	grudging(t, fs, 2<<20, func(int) vmtest.Result { return h.Run(nil, "vm", "start", "full") },
		func() { whole(t, h, map[string]banger.State{"full": banger.Stopped}) })
	whole(t, h, map[string]banger.State{"full": banger.Running})
}

func fullRun(t *testing.T, h *vmtest.Host, fs *small) {
	boot := func() string {
		return h.OK(t, "vm", "exec", "full", "--", "cat", "/proc/sys/kernel/random/boot_id")
	}
	was := boot()
	h.OK(t, "vm", "exec", "full", "--", "sh", "-c", "echo kept > /root/kept; sync")
	// The daemon dies and comes again while there is no room.
	fs.leave(t, 0)
	vmtest.Kill(t, h.Daemon(t))
	if r := h.Run(nil, "vm", "list"); r.Status != 0 {
		t.Logf("a daemon that starts on a full disk says: %s", r.Stderr)
		if !strings.Contains(string(r.Stderr), "no space left") && !strings.Contains(string(r.Stderr), "disk is full") {
			t.Errorf("which isn't that the disk is full")
		}
	}
	fs.leave(t, -1)
	if now := boot(); now != was {
		t.Error("the VM was lost with the daemon")
	}
	// The guest itself fills the disk. It is told so by errors; it isn't stopped.
	fs.leave(t, 2<<20)
	r := h.Run(nil, "vm", "exec", "full", "--", "sh", "-c", "dd if=/dev/zero of=/root/big bs=1M count=8 conv=fsync")
	if r.Status == 0 {
		t.Error("the guest wrote 8 MiB where there was room for 2")
	}
	t.Logf("the guest's dd says: %s", r.Stderr)
	fs.leave(t, -1)
	h.OK(t, "vm", "stop", "full")
	h.OK(t, "vm", "start", "full")
	if kept := h.OK(t, "vm", "exec", "full", "--", "cat", "/root/kept"); kept != "kept\n" {
		t.Errorf("a synced file reads %q", kept)
	}
}

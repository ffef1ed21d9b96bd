package attack

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

var files = []attempt{
	{"files", "read a file of the user", func(b Bait) (string, bool) { return opened(unix.AT_FDCWD, b.File, unix.O_RDONLY) }},
	{"files", "write it", func(b Bait) (string, bool) { return opened(unix.AT_FDCWD, b.File, unix.O_WRONLY) }},
	{"files", "make a file beside it", func(b Bait) (string, bool) {
		return opened(unix.AT_FDCWD, b.File+".new", unix.O_CREAT|unix.O_WRONLY)
	}},
	{"files", "reach it by way of ..", func(b Bait) (string, bool) {
		return opened(unix.AT_FDCWD, strings.Repeat("../", 64)+b.File, unix.O_RDONLY)
	}},
	{"files", "reach it from open descriptors", fromDescriptors},
	{"files", "use descriptors that nobody gave", strayDescriptors},
	{"files", "read /etc/passwd, /etc/shadow, /root, /home, /var", all(canOpen("/etc/passwd", 0), canOpen("/etc/shadow", 0), canOpen("/root", 0), canOpen("/home", 0), canOpen("/var", 0))},
	{"files", "write to the root", canOpen("/new", unix.O_CREAT|unix.O_WRONLY)},
	{"files", "write to its own program", canOpen("/attack", unix.O_RDWR)},
	{"files", "leave the root (chroot, fchdir)", leaveRoot},
	{"files", "make a device (mknod)", all(node(unix.S_IFCHR, unix.Mkdev(1, 1)), node(unix.S_IFBLK, unix.Mkdev(8, 0)), node(unix.S_IFBLK, unix.Mkdev(254, 0)))},
	{"files", "open a file by its handle", func(Bait) (string, bool) {
		_, err := unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, make([]byte, 8)), unix.O_RDONLY)
		return failed(err)
	}},
	{"files", "mount a file system", all(
		mounts("proc"), mounts("sysfs"), mounts("tmpfs"), mounts("devpts"), mounts("cgroup2"), mounts("overlay"), mounts("fuse"),
	)},
	{"files", "bind, move and remove mounts", all(
		func(Bait) (string, bool) { return failed(unix.Mount("/", "/tmp", "", unix.MS_BIND|unix.MS_REC, "")) },
		func(Bait) (string, bool) {
			return failed(unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
		},
		func(Bait) (string, bool) { return failed(unix.Unmount("/tmp", unix.MNT_DETACH)) },
		func(Bait) (string, bool) { return failed(unix.PivotRoot("/tmp", "/tmp")) },
		func(Bait) (string, bool) {
			_, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
			return failed(err)
		},
		func(Bait) (string, bool) {
			_, err := unix.Fsopen("tmpfs", 0)
			return failed(err)
		},
	)},
	{"files", "watch other files (inotify, fanotify)", all(call(unix.SYS_FANOTIFY_INIT, 0, 0), func(b Bait) (string, bool) {
		fd, err := unix.InotifyInit1(0)
		if err == nil {
			_, err = unix.InotifyAddWatch(fd, b.File, unix.IN_OPEN)
			_ = unix.Close(fd)
		}
		return failed(err)
	})},
	{"/proc and /sys", "open them", all(
		canOpen("/proc/self/status", 0), canOpen("/proc/1/root", 0), canOpen("/proc/sys/kernel/core_pattern", unix.O_WRONLY), canOpen("/proc/sysrq-trigger", unix.O_WRONLY),
		canOpen("/sys", 0), canOpen("/sys/fs/cgroup", 0), canOpen("/sys/kernel", 0))},
	{"/proc and /sys", "open devices", all(
		canOpen("/dev/mem", 0), canOpen("/dev/kmsg", 0), canOpen("/dev/kvm", 0), canOpen("/dev/null", 0), canOpen("/dev/tty", 0), canOpen("/dev/fuse", 0), canOpen("/dev/net/tun", 0))},
}

// fromDescriptors looks for directories, and for what else leads to files.
func fromDescriptors(b Bait) (string, bool) {
	got := "no directory is open"
	for fd := range maxDescriptors {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return fmt.Sprintf("directory %d is open", fd), true
		}
		for _, path := range []string{"..", ".", strings.TrimPrefix(b.File, "/"), filepath.Base(b.File)} {
			if _, hole := opened(fd, path, unix.O_RDONLY); hole {
				return fmt.Sprintf("descriptor %d leads to a file system", fd), true
			}
		}
	}
	return got, false
}

const maxDescriptors = 4096

// strayDescriptors looks for all that is open.
func strayDescriptors(b Bait) (string, bool) {
	for fd := range maxDescriptors {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && !slices.Contains(b.Allowed.Descriptors, fd) {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC != 0 {
				continue // the runtime of this program has opened it: what was inherited isn't so marked
			}
			return fmt.Sprintf("descriptor %d is open, mode %o", fd, st.Mode), true
		}
	}
	return fmt.Sprintf("%d are open", len(b.Allowed.Descriptors)), false
}

func leaveRoot(b Bait) (string, bool) {
	_ = unix.Mkdir("/tmp/x", 0o700)
	if err := unix.Chroot("/tmp/x"); err != nil {
		return failed(err)
	}
	for range 64 {
		_ = unix.Chdir("..")
	}
	got, hole := opened(unix.AT_FDCWD, strings.TrimPrefix(b.File, "/"), unix.O_RDONLY)
	return "chroot succeeded, then " + got, hole || true
}

func node(kind uint32, dev uint64) func(Bait) (string, bool) {
	return func(Bait) (string, bool) {
		defer func() { _ = unix.Unlink("/tmp/node") }()
		if err := unix.Mknod("/tmp/node", kind|0o600, int(dev)); err != nil {
			return failed(err)
		}
		return opened(unix.AT_FDCWD, "/tmp/node", unix.O_RDONLY)
	}
}

func mounts(kind string) func(Bait) (string, bool) {
	return func(Bait) (string, bool) { return failed(unix.Mount("none", "/tmp", kind, 0, "")) }
}

func bytesOf[T any](v *T) uintptr { return uintptr(unsafe.Pointer(v)) }

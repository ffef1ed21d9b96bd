// Package outfit gives programs of an image, such as Docker, what an installed system has and
// a container's image may lack: modules that load when they are asked for, device nodes, data
// directories that are no overlay. It knows nothing of how the machine boots.
package outfit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/guest/agent/modprobe"
)

// Give gives all but the directories. dir has files of ours. Each can fail alone, as most
// programs need none of it; failed is told.
func Give(dir, kernelVersion string, failed func(what string, err error)) {
	for what, do := range map[string]func() error{
		"modules on demand": answerKernel,
		"AppArmor":          func() error { return withoutAppArmor(dir) },
		"device nodes":      func() error { return makeNodes("/lib/modules/" + kernelVersion) },
	} {
		if err := do(); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed(what, err)
		}
	}
}

// Mount mounts what an init would mount, as commands may run before it has, or
// without an init. systemd uses the mounts that it finds.
func Mount() error {
	const inert = unix.MS_NOSUID | unix.MS_NOEXEC
	for _, m := range []struct {
		kind, at string
		flags    uintptr
		data     string
	}{
		{"devpts", "/dev/pts", inert, "mode=620,gid=5,ptmxmode=666"},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		if err := os.Mkdir(m.at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := os.Mkdir("/tmp", 0o755); err == nil {
		return os.Chmod("/tmp", os.ModeSticky|0o777)
	}
	return nil
}

// answerKernel has the kernel ask us for modules if the image has nobody to ask. BusyBox's
// modprobe doesn't count: it may know neither aliases nor soft dependencies.
func answerKernel() error {
	real, err := filepath.EvalSymlinks("/sbin/modprobe")
	if name := filepath.Base(real); err == nil && name != "busybox" && name != "toybox" {
		return nil
	}
	return os.WriteFile("/proc/sys/kernel/modprobe", []byte(modprobe.Path), 0)
}

// withoutAppArmor says that AppArmor is off if the image can't load a profile: Docker and
// its like fail where it is on and apparmor_parser is missing. Nothing is confined then
// anyway, as there are no profiles.
func withoutAppArmor(dir string) error {
	const says = "/sys/module/apparmor/parameters/enabled"
	on, err := os.ReadFile(says)
	if err != nil || !strings.HasPrefix(string(on), "Y") {
		return err
	}
	for _, path := range []string{"/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"} {
		if unix.Access(path, unix.X_OK) == nil {
			return nil
		}
	}
	off := dir + "/apparmor-enabled"
	if err := os.WriteFile(off, []byte("N\n"), 0o444); err != nil {
		return err
	}
	return unix.Mount(off, says, "", unix.MS_BIND, "")
}

// nodes are the device nodes whose first use loads a module, with their modes, those of udev.
// Others would make programs believe that there is hardware which isn't.
var nodes = map[string]uint32{
	"fuse": 0o666, "net/tun": 0o666, "loop-control": 0o660, "mapper/control": 0o600, "ppp": 0o600, "btrfs-control": 0o660,
}

// makeNodes makes the nodes that kmod and udev would make.
func makeNodes(modules string) error {
	for _, n := range modprobe.Nodes(os.DirFS(modules)) {
		mode, ok := nodes[n.Path]
		if !ok || n.Block {
			continue
		}
		path := filepath.Join("/dev", n.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(path, unix.S_IFCHR|mode, int(unix.Mkdev(n.Major, n.Minor))); err != nil {
			if errors.Is(err, unix.EEXIST) {
				continue
			}
			return fmt.Errorf("make %s: %w", path, err)
		}
		if err := os.Chmod(path, os.FileMode(mode)); err != nil { // whatever the umask
			return err
		}
	}
	return nil
}

// CopyUp copies what an image has in a directory, an open one or -1, to one of the disk, once,
// with all that a program can see of it. An interrupted copy is begun anew by the next start.
func CopyUp(from int, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o711); err != nil {
		return err
	}
	if from < 0 {
		return os.Mkdir(to, 0o711)
	}
	temp := to + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	c := copier{names: map[uint64]string{}}
	if err := c.copy(fmt.Sprintf("/proc/self/fd/%d/.", from), temp); err != nil {
		return err
	}
	if c.files > 0 {
		unix.Sync() // else a power cut could leave the name without the content
	}
	return os.Rename(temp, to)
}

// copier copies a tree.
type copier struct {
	names map[uint64]string // of files with several names
	files int
}

func (c *copier) copy(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if first, ok := c.names[st.Ino]; ok && kind != unix.S_IFDIR {
		return os.Link(first, to)
	}
	if st.Nlink > 1 {
		c.names[st.Ino] = to
	}
	c.files++
	var err error
	switch kind {
	case unix.S_IFDIR:
		c.files--
		err = os.Mkdir(to, 0o700)
	case unix.S_IFREG:
		err = copyFile(from, to)
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	default:
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	if kind == unix.S_IFDIR {
		list, err := os.ReadDir(from)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := c.copy(from+"/"+e.Name(), to+"/"+e.Name()); err != nil {
				return err
			}
		}
	}
	return copyAll(from, to, &st)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// copyAll copies a node's attributes. The owner comes before the mode, as a change of it
// removes setuid bits.
func copyAll(from, to string, st *unix.Stat_t) error {
	if err := unix.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	names := make([]byte, 1<<16)
	n, err := unix.Llistxattr(from, names)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	for name := range strings.SplitSeq(string(names[:max(n, 0)]), "\x00") {
		value := make([]byte, 1<<16)
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(to, name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("attribute %q of %s: %w", name, to, err)
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return err
		}
	}
	times := []unix.Timespec{st.Mtim, st.Mtim}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW)
}

package firecracker

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger"
	"banger/vmm/machine"
	"banger/vmm/shim"
	"banger/vmm/uid"
)

// A daemon that is root runs Firecracker under its jailer (Firecracker's docs/jailer.md):
// with a user id that no other machine has, in a root directory with only its own files and
// devices, in a cgroup of its own and, on the user network, in a network namespace of its
// own. The jailer becomes Firecracker, so this is still the shim's child.
//
// The machine's files are mounted into the jail one by one, until Firecracker has opened
// them: a running machine has no mounts. A jail is in its machine's directory, so what is
// left of a dead one is found there, and by the cgroup's name.

const (
	jailDir     = "jail"
	cgroupMount = "/sys/fs/cgroup"
	threads     = 64 // how many threads Firecracker may have besides one per vCPU
)

// jail is the directory in which a machine's Firecracker sees its files.
type jail struct {
	dir    string // jailDir of the machine
	root   string // what Firecracker sees as /
	uid    int
	cgroup string
}

// jailOf returns the machine's jail for a Firecracker program.
func jailOf(m banger.Machine, firecracker string) jail {
	dir := filepath.Join(m.Dir, jailDir)
	return jail{
		dir:  dir,
		root: filepath.Join(dir, filepath.Base(firecracker), machine.Name(m.ID), "root"),
		uid:  uid.Of(m.ID, m.Dir),
		// The jailer makes one named so in one of our naming: no machine shares either.
		cgroup: filepath.Join(cgroupMount, machine.Name(m.ID), machine.Name(m.ID)),
	}
}

// roots returns the root directories of the jails of the machine in dir.
func roots(dir string) []string {
	quoted := strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(dir)
	list, _ := filepath.Glob(filepath.Join(quoted, jailDir, "*", "*", "root")) // the pattern is well-formed
	return list
}

// jailed prepares a launch under the jailer: it makes the machine's jail.
func jailed(m banger.Machine, firecracker string, from snapshot) (launch, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return launch{}, banger.Errorf(banger.CodeUnavailable, "no cgroup v2 hierarchy at %s, in which Firecracker's jailer would put it", cgroupMount).
			WithHint("mount -t cgroup2 none %s; a daemon in `ip netns exec` doesn't see the host's", cgroupMount)
	}
	j := jailOf(m, firecracker)
	err := open(j.root, m.Dir)
	if err == nil {
		j.uid, err = uid.Take(m.ID, m.Dir)
	}
	l := launch{m: m, seen: m, argv: j.command(m, firecracker), owner: j.uid, template: from}
	enter := func(path, name string, readOnly bool) {
		if err == nil {
			err = j.admit(path, name, readOnly)
		}
	}
	if from.empty() {
		l.seen.Kernel, l.seen.Initramfs = "/kernel", "/initramfs"
		enter(m.Kernel, "kernel", true)
		enter(m.Initramfs, "initramfs", true)
	} else {
		l.template = snapshot{"/" + templateState, "/" + templateRAM}
		enter(from.state, templateState, true)
		enter(from.ram, templateRAM, true)
	}
	for i, d := range m.Drives {
		enter(d.Path, driveFile(i), d.ReadOnly)
	}
	if err == nil {
		err = j.admitLibraries(firecracker)
	}
	if err == nil && m.Net.Mode == banger.NetBridge {
		err = j.claimTap(m.Net.Tap)
	}
	if err == nil {
		l.where, err = filepath.Rel(m.Dir, j.root)
	}
	if err != nil {
		return launch{}, fmt.Errorf("make the jail of machine %s: %w", m.ID, err)
	}
	return l, nil
}

// open makes a directory, and those above it up to within, so that every user can enter
// them, for any umask of ours.
func open(dir, within string) error {
	err := os.MkdirAll(dir, 0o755)
	for at := dir; err == nil && at != within; at = filepath.Dir(at) {
		err = os.Chmod(at, 0o755)
	}
	return err
}

// admit puts a file or a block device of the host into the jail.
func (j jail) admit(path, name string, readOnly bool) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	at := filepath.Join(j.root, name)
	if st.Mode()&fs.ModeDevice != 0 {
		device := st.Sys().(*syscall.Stat_t).Rdev // as on every Linux
		if err := unix.Mknod(at, unix.S_IFBLK|0o600, int(device)); err != nil {
			return &fs.PathError{Op: "mknod", Path: at, Err: err}
		}
		return os.Chown(at, j.uid, j.uid)
	}
	// Others may read the file: they can't enter the directories above it.
	if readOnly {
		err = os.Chmod(path, st.Mode().Perm()|0o444)
	} else {
		err = os.Chown(path, j.uid, -1)
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(at, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount(path, at, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "mount", Path: at, Err: err}
	}
	if readOnly {
		if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return &fs.PathError{Op: "remount", Path: at, Err: err}
		}
	}
	return nil
}

// seal removes the mounts, once Firecracker has opened what it needs. Its mount namespace is
// a slave of the host's, so they are removed there, too.
func (j jail) seal() error {
	var errs []error
	for _, at := range slices.Backward(mountsBelow(j.dir)) {
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, &fs.PathError{Op: "unmount", Path: at, Err: err})
		}
	}
	return errors.Join(errs...)
}

// clear removes what there is of the jail of a machine that doesn't run.
func (j jail) clear() error {
	if err := j.seal(); err != nil {
		return err
	}
	if left := mountsBelow(j.dir); len(left) > 0 {
		return fmt.Errorf("still mounted: %q", left) // removing files would remove those behind a mount, too
	}
	err := errors.Join(os.RemoveAll(j.dir), uid.Free(j.uid, filepath.Dir(j.dir)))
	for _, c := range []string{j.cgroup, filepath.Dir(j.cgroup)} {
		if _, serr := os.Lstat(c); errors.Is(serr, fs.ErrNotExist) {
			continue // a read-only /sys, as in a container, says that first (rmdir(2))
		}
		if rerr := os.Remove(c); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// mountsBelow returns what is mounted below a directory, oldest first
// (proc_pid_mountinfo(5)). The kernel knows no links on the way there.
func mountsBelow(dir string) (list []string) {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 {
			if at := unescape.Replace(f[4]); strings.HasPrefix(at, dir+"/") {
				list = append(list, at)
			}
		}
	}
	return list
}

// command returns the jailer's arguments before Firecracker's own.
func (j jail) command(m banger.Machine, firecracker string) []string {
	id := strconv.Itoa(j.uid)
	argv := []string{
		jailerOf(firecracker), "--id", machine.Name(m.ID), "--exec-file", firecracker, "--uid", id, "--gid", id, "--chroot-base-dir", j.dir,
		"--cgroup-version", "2", "--parent-cgroup", machine.Name(m.ID), "--cgroup", fmt.Sprintf("pids.max=%d", threads+m.VCPU),
	}
	// It leaves the group that the shim is in, and the bound on memory with that.
	if has, err := os.ReadFile(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil && slices.Contains(strings.Fields(string(has)), "memory") {
		argv = append(argv, "--cgroup", fmt.Sprintf("memory.max=%d", int64(m.MemoryMiB)<<20+shim.VMMBound))
	}
	return append(argv, "--")
}

// jailerOf is the path of the jailer for a Firecracker program. Both names have the same
// version at their end, or none.
func jailerOf(firecracker string) string {
	dir, name := filepath.Split(firecracker)
	return filepath.Join(dir, strings.Replace(name, "firecracker", "jailer", 1))
}

// claimTap lets the jail's user open a TAP of the host. If a TAP has an owner and a group, a
// process that opens it must have both.
func (j jail) claimTap(name string) error {
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(tun)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("open TAP %s: %w", name, err)
	}
	return errors.Join(unix.IoctlSetInt(tun, unix.TUNSETOWNER, j.uid), unix.IoctlSetInt(tun, unix.TUNSETGROUP, j.uid))
}

// admitLibraries copies what a dynamically linked Firecracker needs to start. The
// official ones are static and need nothing.
func (j jail) admitLibraries(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader, err := io.ReadAll(io.LimitReader(p.Open(), unix.PathMax))
		if err != nil {
			return err
		}
		if err := j.copyIn(strings.TrimRight(string(loader), "\x00")); err != nil {
			return err
		}
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := j.copyLibrary(name); err != nil {
			return err
		}
	}
	return nil
}

func (j jail) copyLibrary(name string) (err error) {
	for _, dir := range []string{"/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
		if err = j.copyIn(filepath.Join(dir, filepath.Base(name))); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

func (j jail) copyIn(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	at := filepath.Join(j.root, path)
	if err := open(filepath.Dir(at), j.root); err != nil {
		return err
	}
	if err := os.WriteFile(at, data, 0o755); err != nil {
		return err
	}
	return os.Chmod(at, 0o755)
}

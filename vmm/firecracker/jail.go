package firecracker

import (
	"debug/elf"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
)

// A daemon that is root runs Firecracker under its jailer (Firecracker's
// docs/jailer.md): with a user id of the machine's own, in a root directory that
// has its files and devices and nothing else, in a cgroup and, on the user network,
// a network namespace of its own. The jailer becomes Firecracker, so process, output
// and exit status are the shim's child's all the same.
//
// The machine's files are mounted into the jail one by one, for as long as
// Firecracker takes to open them: a machine that runs holds no mount. A jail lies in
// its machine's directory, so what a dead one left is found there, and by the
// cgroup's name.

const (
	jailDir     = "jail"
	cgroupMount = "/sys/fs/cgroup"
	firstUID    = 1_900_000_000 // of a range that systemd's documentation (UIDS-GIDS.md) leaves unused
	uids        = 100_000_000
	threads     = 64 // that Firecracker may have besides one per vCPU
)

// jail is where a machine's Firecracker sees its files.
type jail struct {
	dir    string // jailDir of the machine
	root   string // what Firecracker sees as /
	uid    int
	cgroup string
}

// jailUID is the user id of a machine's Firecracker.
func jailUID(id string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return firstUID + int(h.Sum32()%uids)
}

// jailOf returns the machine's jail for a Firecracker program.
func jailOf(m banger.Machine, firecracker string) jail {
	dir := filepath.Join(m.Dir, jailDir)
	return jail{
		dir:  dir,
		root: filepath.Join(dir, filepath.Base(firecracker), vmName(m.ID), "root"),
		uid:  jailUID(m.ID),
		// The jailer makes one named so in one of our naming: no machine shares either.
		cgroup: filepath.Join(cgroupMount, vmName(m.ID), vmName(m.ID)),
	}
}

// prepare makes the jail of machine m, which begins with a template or boots, and
// returns both as Firecracker sees them from within.
func (j jail) prepare(m banger.Machine, firecracker string, from snapshot) (inside banger.Machine, seen snapshot, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return m, from, banger.Errorf(banger.CodeUnavailable, "no cgroup v2 hierarchy at %s, in which Firecracker's jailer would put it", cgroupMount).
			WithHint("mount -t cgroup2 none %s; a daemon in `ip netns exec` doesn't see the host's", cgroupMount)
	}
	if err := os.MkdirAll(j.root, 0o755); err != nil {
		return m, from, fmt.Errorf("make the jail: %w", err)
	}
	for at := j.root; at != m.Dir; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil { // whatever the umask: its directory is closed
			return m, from, err
		}
	}
	enter := func(path, name string, readOnly bool) {
		if err == nil {
			err = j.admit(path, name, readOnly)
		}
	}
	inside = m
	if from.empty() {
		inside.Kernel, inside.Initramfs = "/kernel", "/initramfs"
		enter(m.Kernel, "kernel", true)
		enter(m.Initramfs, "initramfs", true)
	} else {
		seen = snapshot{"/" + templateState, "/" + templateRAM}
		enter(from.state, templateState, true)
		enter(from.ram, templateRAM, true)
	}
	for i, d := range m.Drives {
		enter(d.Path, driveFile(i), d.ReadOnly)
	}
	if err == nil {
		err = j.admitLibraries(firecracker)
	}
	if err != nil {
		return m, from, fmt.Errorf("make the jail of machine %s: %w", m.ID, err)
	}
	return inside, seen, nil
}

// admit makes a file or a block device of the host's appear in the jail.
func (j jail) admit(path, name string, readOnly bool) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	at := filepath.Join(j.root, name)
	if st.Mode()&fs.ModeDevice != 0 {
		var raw unix.Stat_t
		if err := unix.Stat(path, &raw); err != nil {
			return &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		if err := unix.Mknod(at, unix.S_IFBLK|0o600, int(raw.Rdev)); err != nil {
			return &fs.PathError{Op: "mknod", Path: at, Err: err}
		}
		return os.Chown(at, j.uid, j.uid)
	}
	// The directories that lead there are closed to others, the file needn't be.
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

// seal takes the mounts away, once Firecracker has opened what it needs. Its own
// mount namespace is the host's slave, so they vanish there too.
func (j jail) seal() error {
	var errs []error
	for _, at := range slices.Backward(mountsBelow(j.dir)) {
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, &fs.PathError{Op: "unmount", Path: at, Err: err})
		}
	}
	return errors.Join(errs...)
}

// clear removes the jail of a machine that doesn't run, or what is left of it.
func (j jail) clear() error {
	if err := j.seal(); err != nil {
		return err
	}
	if left := mountsBelow(j.dir); len(left) > 0 {
		return fmt.Errorf("still mounted: %q", left) // never remove what is behind a mount
	}
	err := os.RemoveAll(j.dir)
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
// (proc_pid_mountinfo(5)).
func mountsBelow(dir string) (list []string) {
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
	return []string{
		jailerOf(firecracker), "--id", vmName(m.ID), "--exec-file", firecracker, "--uid", id, "--gid", id, "--chroot-base-dir", j.dir,
		"--cgroup-version", "2", "--parent-cgroup", vmName(m.ID), "--cgroup", fmt.Sprintf("pids.max=%d", threads+m.VCPU), "--",
	}
}

// jailerOf is the jailer beside a Firecracker program: the official names are alike,
// with or without a version.
func jailerOf(firecracker string) string {
	dir, name := filepath.Split(firecracker)
	return filepath.Join(dir, strings.Replace(name, "firecracker", "jailer", 1))
}

// claimTap lets the jail's user open a TAP of the host's. A TAP has an owner or a
// group, or both: then who opens it must be of both.
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
	// Readable by the jail's user, whatever our umask is.
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if err := os.MkdirAll(filepath.Join(j.root, dir), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(j.root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(at, data, 0o755); err != nil {
		return err
	}
	return os.Chmod(at, 0o755)
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/config"
	"banger/doctor"
	"banger/firecracker"
	"banger/kvm"
	"banger/netns"
)

// printDoctor is `bangerd --doctor`: the judgement of this host by the program
// that knows the drivers, for a command line that must be able to give it when
// no daemon can start.
func printDoctor(ctx context.Context, w io.Writer) error {
	conf, dirs, err := config.Load(os.Getenv)
	if dirs.State == "" {
		return err
	}
	ram := "/dev/shm"
	if !fitForRAM(ram) {
		ram = filepath.Join(dirs.State, "ram")
	}
	h := &doctor.Host{
		UID: os.Getuid(), Getenv: os.Getenv, LookPath: exec.LookPath,
		KVM: kvm.Probe, UserNamespace: userNamespace,
		Filesystem: filesystem, Lock: tryLock, Owner: owner,
		Dirs: dirs, Config: conf, ConfigErr: err, RAMDir: ram, Siblings: map[string]error{},
	}
	if me, err := user.Current(); err == nil {
		h.User = me.Username
	}
	for _, name := range []string{"banger-shim", "banger-agent"} {
		_, h.Siblings[name] = sibling(name)
	}
	if h.Shim, err = sibling("banger-shim"); err == nil && h.UID != 0 {
		h.UserNamespace = func(ctx context.Context) error { return netns.Probe(ctx, h.Shim) }
	}
	judgeHypervisors(ctx, h)
	r := doctor.Examine(ctx, h)
	_, err = os.Stat(databasePath(dirs))
	r.Records = err == nil
	return json.NewEncoder(w).Encode(r)
}

// judgeHypervisors looks at both as the daemon would.
func judgeHypervisors(ctx context.Context, h *doctor.Host) {
	probed, err := h.KVM(ctx)
	h.KVM = func(context.Context) (kvm.Result, error) { return probed, err }
	hv := openHypervisors(ctx, h.Config, h.Dirs, h.Shim, probed)
	h.QEMU = hv.qemu.Describe
	h.Firecracker = func(ctx context.Context) (doctor.Firecracker, error) {
		path, version, err := hv.firecracker.Describe(ctx)
		return doctor.Firecracker{Path: path, Version: version, Tested: firecracker.Tested, Holes: firecracker.Holes(version)}, err
	}
	h.Hypervisor, h.Why = hv.chosen, hv.why
}

// userNamespace runs this program in a user namespace of its own.
func userNamespace(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "--version")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	return cmd.Run()
}

// fstypes are the names of statfs(2)'s types that doctor has something to say of.
var fstypes = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.XFS_SUPER_MAGIC: "xfs", unix.TMPFS_MAGIC: "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.CIFS_SUPER_MAGIC: "cifs", unix.SMB2_SUPER_MAGIC: "smb2",
	unix.V9FS_MAGIC: "9p", unix.AFS_SUPER_MAGIC: "afs", unix.CEPH_SUPER_MAGIC: "ceph", unix.FUSE_SUPER_MAGIC: "fuse", unix.F2FS_SUPER_MAGIC: "f2fs",
	0x2fc12fc1: "zfs", // not in linux/magic.h: ZFS is no part of Linux
}

// filesystem describes the one that path is in, or would be.
func filesystem(path string) (doctor.Filesystem, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(path, &st)
		if err == nil {
			name, ok := fstypes[int64(uint32(st.Type))]
			if !ok {
				name = fmt.Sprintf("type %#x", uint32(st.Type))
			}
			return doctor.Filesystem{Path: path, Type: name, Free: int64(st.Bavail) * st.Bsize}, nil
		}
		if err != unix.ENOENT || path == filepath.Dir(path) {
			return doctor.Filesystem{}, &os.PathError{Op: "statfs", Path: path, Err: err}
		}
		path = filepath.Dir(path)
	}
}

func owner(path string) (uid int, writable bool, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, false, err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		uid = int(st.Uid)
	}
	return uid, unix.Access(path, unix.W_OK|unix.X_OK) == nil, nil
}

// tryLock takes a lock in dir as the daemon takes its own, beside that one.
func tryLock(dir string) error {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close(); _ = os.Remove(f.Name()) }()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

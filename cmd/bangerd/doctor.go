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
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/config"
	"banger/daemon/doctor"
	"banger/daemon/isolation"
	"banger/daemon/template"
	"banger/host/cgroup"
	"banger/host/hostfs"
	"banger/host/xdg"
	"banger/network/netns"
	"banger/vmm/firecracker"
	"banger/vmm/kvm"
	"banger/vmm/qemu"
	"banger/vmm/qemu/packaged"
	"banger/workspace/git"
)

// printDoctor is `bangerd --doctor`: it looks at this host with the drivers' help. The
// command line calls it, as it must work when no daemon can start.
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
		UserNamespace: userNamespace, Git: installedGit,
		Filesystem: filesystem, Lock: tryLock, Owner: owner,
		Templates: templatesIn(ctx, dirs), Obstacles: obstacles(conf), Bound: memoryBound,
		State: dirs.State, Data: dirs.Data, Cache: dirs.Cache,
		Settings: doctor.Settings{Path: conf.Path(), Err: err, DiskDriver: conf.DiskDriver, Net: conf.Net, WarmStart: conf.WarmStart, Insecure: conf.InsecureVMM},
		RAMDir:   ram, Siblings: map[string]error{},
	}
	handed, herr := ofUser(conf).Home(ctx)
	h.Settings.Proxy, h.Settings.Handed = handed.Proxy, herr
	if me, err := user.Current(); err == nil {
		h.User = me.Username
	}
	for _, name := range []string{"banger-shim", "banger-agent"} {
		_, h.Siblings[name] = sibling(name)
	}
	if h.Shim, err = sibling("banger-shim"); err == nil && h.UID != 0 {
		h.UserNamespace = func(ctx context.Context) error { return netns.Probe(ctx, h.Shim) }
	}
	judgeHypervisors(ctx, h, conf, dirs)
	r := doctor.Examine(ctx, h)
	_, err = os.Stat(databasePath(dirs))
	r.Records = err == nil
	return json.NewEncoder(w).Encode(r)
}

// memoryBound says how VMs' memory is bounded here.
func memoryBound() (string, error) {
	way, err := cgroup.Find()
	return way.String(), err
}

// judgeHypervisors looks at KVM and at both hypervisors as the daemon would.
func judgeHypervisors(ctx context.Context, h *doctor.Host, conf config.Config, dirs xdg.Dirs) {
	probed, err := kvm.Probe(ctx)
	h.KVM = func(context.Context) (doctor.KVM, error) {
		return doctor.KVM{Verdict: doctor.Verdict(probed.Verdict), Found: probed.Detail, Mend: probed.Hint, SteadyClock: probed.TSCKHz != 0}, err
	}
	hv := openHypervisors(ctx, conf, dirs, h.Shim, probed)
	h.QEMU = describeQEMU(hv.qemu, packagedQEMU(conf, dirs))
	h.Firecracker = func(ctx context.Context) (doctor.Firecracker, error) {
		path, version, err := hv.firecracker.Describe(ctx)
		return doctor.Firecracker{Path: path, Version: version, Tested: firecracker.Tested, Holes: firecracker.Holes(version)}, err
	}
	h.Isolation, h.Hypervisor, h.Why = hv.by, hv.chosen, hv.why
	h.Maps, h.Carries, h.ProcessKernel = hv.choices.Maps, isolation.Carries(hv.choices.Maps), conf.ProcessKernel
	h.Jail = func(ctx context.Context) (doctor.Jail, error) {
		v, err := hv.stands(ctx)
		return doctor.Jail{Stands: v.Stands, Found: v.Detail, Mend: v.Hint, Landlock: v.Landlock}, err
	}
	h.Kernel = func() (doctor.Kernel, error) { return newestKernel(conf, dirs, hv.kernel(conf)) }
	h.Settings.VCPU, h.Settings.MemoryMiB = hv.sizes(ctx, conf, hv.by, hv.chosen)
}

// describeQEMU says which QEMU is used, and of a fetched one how old it is: no distribution
// updates it.
func describeQEMU(driver *qemu.Driver, fetched packaged.Installer) func(context.Context) (path, version, note string, err error) {
	return func(ctx context.Context) (path, version, note string, err error) {
		path, version, note, err = driver.Describe(ctx)
		if in, ferr := fetched.Find(); err == nil && ferr == nil && in.Path() == path {
			about := fmt.Sprintf("it is Debian's %s, fetched on %s; `banger hypervisor install qemu` looks for updates", in.Version, in.Fetched.Format(time.DateOnly))
			note = strings.TrimPrefix(note+"; "+about, "; ")
		}
		return path, version, note, err
	}
}

// installedGit says which git would read repositories.
func installedGit(ctx context.Context) (doctor.Git, error) {
	text, version, err := git.Version(ctx)
	g := doctor.Git{Version: text, Old: slices.Compare(version[:], git.Oldest[:]) < 0}
	g.Oldest = fmt.Sprintf("%d.%d.%d", git.Oldest[0], git.Oldest[1], git.Oldest[2])
	return g, err
}

// newestKernel is what is known of a kernel.
func newestKernel(conf config.Config, dirs xdg.Dirs, name string) (doctor.Kernel, error) {
	l, err := kernelsIn(conf, dirs).Last(name)
	return doctor.Kernel{Name: name, Version: l.Have.Version, Newest: l.Newest, Behind: l.Behind, Looked: l.When, Current: l.Current, Older: l.Older}, err
}

// templatesIn counts what `banger template list` would show.
func templatesIn(ctx context.Context, dirs xdg.Dirs) func() int {
	return func() int {
		list, _ := (&template.Store{Dir: templateDir(dirs)}).Templates(ctx) // an error counts as none
		return len(list)
	}
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

// fstypes names those filesystem types of statfs(2) that doctor reports.
var fstypes = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.XFS_SUPER_MAGIC: "xfs", unix.TMPFS_MAGIC: "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.CIFS_SUPER_MAGIC: "cifs", unix.SMB2_SUPER_MAGIC: "smb2",
	unix.V9FS_MAGIC: "9p", unix.AFS_SUPER_MAGIC: "afs", unix.CEPH_SUPER_MAGIC: "ceph", unix.FUSE_SUPER_MAGIC: "fuse", unix.F2FS_SUPER_MAGIC: "f2fs",
	0x2fc12fc1: "zfs", // not in linux/magic.h: ZFS is no part of Linux
}

// filesystem describes the filesystem that path is on, or would be.
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

// tryLock tries whether files in dir can be locked, as the daemon does. It uses a file
// of its own.
func tryLock(dir string) error {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close(); _ = os.Remove(f.Name()) }()
	return hostfs.TryLock(f)
}

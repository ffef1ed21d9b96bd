package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"banger"
	"banger/kvm"
)

// programs looks for the parts of banger itself.
func programs(_ context.Context, h *Host, r *Report) {
	for _, name := range []string{"banger-shim", "banger-agent"} {
		if err := h.Siblings[name]; err != nil {
			r.Add(Check{"programs", Fail, err.Error(), "no VM can start without it", "install banger's programs together, in one directory: `make build`, or unpack the release again"})
			return
		}
	}
	r.Add(Check{Name: "programs", Level: OK, Found: "bangerd, banger-shim and banger-agent lie together"})
}

func configuration(_ context.Context, h *Host, r *Report) {
	c := Check{Name: "config", Level: OK, Found: h.Config.Path() + " can be used"}
	if h.ConfigErr != nil {
		c = Check{"config", Fail, h.ConfigErr.Error(), "the daemon won't start", "mend or move the file; `banger config check` looks at it again"}
		if e, ok := errors.AsType[*banger.Error](h.ConfigErr); ok && e.Hint != "" {
			c.Mend = e.Hint
		}
	} else if _, err := os.Stat(h.Config.Path()); err != nil {
		c.Found = "no " + h.Config.Path() + ": the defaults hold"
	}
	r.Add(c)
}

// processor tells the ways apart in which KVM is of use or not.
func processor(ctx context.Context, h *Host, r *Report) {
	got, err := h.KVM(ctx)
	if err != nil {
		r.Add(Check{"kvm", Warn, "it could not be judged: " + err.Error(), "guests are emulated, several times slower than the host", ""})
		return
	}
	c := Check{Name: "kvm", Level: Warn, Found: got.Detail, Mend: got.Hint,
		Means: "guests are emulated: everything works, several times slower than the host"}
	switch got.Verdict {
	case kvm.Works:
		c.Level, c.Means = OK, "guests run at the processor's own speed"
	case kvm.Crawls:
		c.Means = "KVM opens and its guests crawl, so it isn't used: guests are emulated, which is far quicker here"
	case kvm.Broken:
		c.Means = "KVM opens and can't run a guest, so it isn't used: guests are emulated"
	}
	r.Add(c)
	if got.TSCKHz == 0 {
		r.Add(Check{"clock", Warn, "the processor's time stamp counter isn't constant", "emulated guests may take a second try to boot, and their clocks drift", ""})
	}
}

// hypervisor looks at QEMU and Firecracker, and says which is chosen and why.
func hypervisor(ctx context.Context, h *Host, r *Report) {
	path, version, note, err := h.QEMU(ctx)
	q := Hypervisor{Name: "qemu", Path: path, Version: version}
	switch {
	case err != nil && h.Hypervisor != q.Name:
		q.Missing = err.Error()
		r.Add(Check{"qemu", Warn, err.Error(), "VMs run on Firecracker only, and without KVM not at all", h.install("qemu")})
	case err != nil:
		q.Missing = err.Error()
		r.Add(Check{"qemu", Fail, err.Error(), "no VM can run", h.install("qemu")})
	default:
		r.Add(Check{Name: "qemu", Level: OK, Found: path + " is version " + version, Means: note})
	}
	f := lookAtFirecracker(ctx, h, r)
	r.Hypervisors = []Hypervisor{f, q}
	for i := range r.Hypervisors {
		if r.Hypervisors[i].Name == h.Hypervisor {
			r.Hypervisors[i].Default, r.Hypervisors[i].Why = true, h.Why
		}
	}
	how := "by emulation"
	if got, err := h.KVM(ctx); err == nil && got.Verdict == kvm.Works {
		how = "with KVM"
	}
	r.Drivers = append(r.Drivers, Driver{"hypervisor", h.Hypervisor, h.Why + "; " + how})
}

// lookAtFirecracker says which one there is, and what is known to be wrong with it.
func lookAtFirecracker(ctx context.Context, h *Host, r *Report) Hypervisor {
	f, err := h.Firecracker(ctx)
	got := Hypervisor{Name: "firecracker", Path: f.Path, Version: f.Version, Tested: f.Tested, Holes: f.Holes}
	if err != nil {
		got.Missing = err.Error()
		c := Check{"firecracker", Note, err.Error(), "not needed: QEMU does all", "banger hypervisor install, if you want it"}
		if h.Hypervisor == got.Name {
			c.Level, c.Means, c.Mend = Fail, "no VM can run: config.toml wants it", "banger hypervisor install, or set hypervisor to auto in config.toml"
		}
		r.Add(c)
		return got
	}
	c := Check{Name: "firecracker", Level: OK, Found: fmt.Sprintf("%s is version %s, the one banger was tested with", f.Path, f.Version)}
	if f.Version != f.Tested {
		c.Level, c.Found = Note, fmt.Sprintf("%s is version %s; banger was tested with %s", f.Path, f.Version, f.Tested)
	}
	if len(f.Holes) > 0 {
		c.Level, c.Means = Note, "known of it: "+strings.Join(f.Holes, "; ")
	}
	r.Add(c)
	return got
}

func disks(_ context.Context, h *Host, r *Report) {
	c := Check{Name: "mke2fs", Level: OK}
	for _, name := range []string{"mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"} {
		if path, err := h.LookPath(name); err == nil {
			c.Found = path
			break
		}
	}
	if c.Found == "" {
		c = Check{"mke2fs", Fail, "mke2fs is neither in PATH nor in /usr/sbin", "no VM's disk can be made", h.install("e2fsprogs")}
	}
	r.Add(c)
	snapshots(h, r)
}

// snapshots says what disks new VMs get, and whether those by device-mapper can be
// had where they are asked for.
func snapshots(h *Host, r *Report) {
	if h.Config.DiskDriver != "dm-snapshot" {
		r.Drivers = append(r.Drivers, Driver{"disk", "file", "sparse files, which need no root"})
		return
	}
	r.Drivers = append(r.Drivers, Driver{"disk", "dm-snapshot", "config.toml says so"})
	const means = "no new VM's disk can be attached"
	switch _, err := os.Stat(filepath.Join(h.Root, "/dev/mapper/control")); {
	case h.UID != 0:
		r.Add(Check{"dm-snapshot", Fail, "disk_driver is dm-snapshot, and this isn't root", means, "set disk_driver to file in config.toml, or run banger as root"})
	case err != nil:
		r.Add(Check{"dm-snapshot", Fail, err.Error(), means, "modprobe dm_snapshot; or set disk_driver to file in config.toml"})
	default:
		r.Add(Check{Name: "dm-snapshot", Level: OK, Found: "device-mapper is there"})
	}
}

func network(_ context.Context, h *Host, r *Report) {
	if _, err := h.LookPath("git"); err != nil {
		r.Add(Check{"git", Warn, "git is not in PATH", "`vm run PATH` can't copy a repository; all else works", h.install("git")})
	} else {
		r.Add(Check{Name: "git", Level: OK, Found: "git is in PATH"})
	}
	why := map[string]string{"user": "a network stack in a process of yours, which needs no root", "bridge": "config.toml says so; it needs root", "none": "config.toml says so"}
	r.Drivers = append(r.Drivers, Driver{"network", h.Config.Net, why[h.Config.Net]})
	if h.Config.Net == string(banger.NetBridge) && h.UID != 0 {
		r.Add(Check{"bridge", Fail, "net is bridge, and this isn't root", "no new VM can be made without --net user", "set net to user in config.toml, or run banger as root"})
	}
}

// memory compares what is free with what a VM gets.
func memory(_ context.Context, h *Host, r *Report) {
	mib := 0
	for line := range strings.Lines(h.text("/proc/meminfo")) {
		var kib int
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			mib = kib >> 10
		}
	}
	c := Check{Name: "memory", Level: OK, Found: fmt.Sprintf("%d MiB are available; a VM gets %d MiB, in %s", mib, h.Config.MemoryMiB, h.RAMDir)}
	fs, err := h.Filesystem(h.RAMDir)
	switch {
	case mib < h.Config.MemoryMiB:
		c.Level, c.Means, c.Mend = Warn, "a VM of the default size won't start", fmt.Sprintf("`--memory %dM` makes a smaller one; memory_mib in config.toml makes that the default", max(banger.MinMemoryMiB, mib/2))
	case err == nil && int(fs.Free>>20) < h.Config.MemoryMiB:
		c.Level, c.Means = Warn, fmt.Sprintf("%s has room for %d MiB only: a VM of the default size won't start", h.RAMDir, fs.Free>>20)
		c.Mend = "free some there, or take a smaller --memory"
	}
	r.Add(c)
}

// warmth looks at whether VMs can be restored instead of booted.
func warmth(_ context.Context, h *Host, r *Report) {
	c := Check{Name: "warm start", Level: Note}
	made, _ := filepath.Glob(filepath.Join(h.Dirs.Cache, "templates", "[!.]*")) // a name beginning with a dot is one being made
	switch {
	case !h.Config.WarmStart:
		c.Found, c.Means, c.Mend = "warm_start is false in config.toml", "every VM is booted", "warm_start = true has them restored from templates"
	case len(made) == 0:
		c.Found, c.Means, c.Mend = "there are no templates yet", "the next VM is booted, and one is made after it", "banger template create makes one now"
	default:
		c.Level, c.Found = OK, fmt.Sprintf("templates: %d; VMs of their kinds are restored, not booted", len(made))
	}
	r.Add(c)
}

// text returns a small file of the system's, or "".
func (h *Host) text(path string) string {
	data, err := os.ReadFile(filepath.Join(h.Root, path))
	if err != nil {
		return ""
	}
	return string(data)
}

// Packages that hold what banger needs, by distribution.
var packages = map[string]map[string]string{
	"debian": {"qemu": "qemu-system-x86", "e2fsprogs": "e2fsprogs", "git": "git"},
	"fedora": {"qemu": "qemu-system-x86-core", "e2fsprogs": "e2fsprogs", "git": "git-core"},
	"arch":   {"qemu": "qemu-system-x86", "e2fsprogs": "e2fsprogs", "git": "git"},
	"suse":   {"qemu": "qemu-x86", "e2fsprogs": "e2fsprogs", "git": "git-core"},
	"alpine": {"qemu": "qemu-system-x86_64", "e2fsprogs": "e2fsprogs", "git": "git"},
}

var installers = map[string]string{
	"debian": "apt-get install --no-install-recommends", "fedora": "dnf install", "arch": "pacman -S", "suse": "zypper install", "alpine": "apk add",
}

// install is the command that installs something on this distribution.
func (h *Host) install(what string) string {
	sudo := "sudo "
	if h.UID == 0 {
		sudo = ""
	}
	family := h.family()
	if family == "" {
		return "install " + what + " with this system's package manager"
	}
	return sudo + installers[family] + " " + packages[family][what]
}

// family is this distribution's, by os-release(5).
func (h *Host) family() string {
	var ids []string
	for line := range strings.Lines(h.text("/etc/os-release")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key == "ID" || key == "ID_LIKE" {
			ids = append(ids, strings.Fields(strings.Trim(value, `"'`))...)
		}
	}
	for _, id := range ids {
		switch {
		case id == "ubuntu":
			return "debian"
		case id == "rhel" || id == "centos":
			return "fedora"
		case strings.Contains(id, "suse"):
			return "suse"
		case installers[id] != "":
			return id
		}
	}
	return ""
}

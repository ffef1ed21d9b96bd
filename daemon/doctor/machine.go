package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
)

// programs looks for the parts of banger itself.
func programs(_ context.Context, h *Host, r *banger.Report) {
	for _, name := range []string{"banger-shim", "banger-agent"} {
		if err := h.Siblings[name]; err != nil {
			r.Add(check("programs", banger.LevelFail, err.Error(), "no VM can start without it", "put all of banger's programs into one directory: unpack the release again"))
			return
		}
	}
	r.Add(banger.Check{Name: "programs", Level: banger.LevelOK, Found: "bangerd, banger-shim and banger-agent are in one directory"})
}

func configuration(_ context.Context, h *Host, r *banger.Report) {
	c := banger.Check{Name: "config", Level: banger.LevelOK, Found: h.Settings.Path + " can be used"}
	if h.Settings.Err != nil {
		c = check("config", banger.LevelFail, h.Settings.Err.Error(), "the daemon won't start", "mend or move the file; `banger config check` looks at it again")
		if e, ok := errors.AsType[*banger.Error](h.Settings.Err); ok && e.Hint != "" {
			c.Mend = e.Hint
		}
	} else if _, err := os.Stat(h.Settings.Path); err != nil {
		c.Found = "no " + h.Settings.Path + ": the defaults hold"
	}
	r.Add(c)
}

// processor says whether KVM can be used, and if not, why.
func processor(ctx context.Context, h *Host, r *banger.Report) {
	got, err := h.KVM(ctx)
	if err != nil {
		r.Add(check("kvm", banger.LevelWarn, "it could not be judged: "+err.Error(), h.withoutKVM(), ""))
		return
	}
	c := banger.Check{Name: "kvm", Level: banger.LevelWarn, Found: got.Found, Mend: got.Mend,
		Means: h.withoutKVM()}
	switch got.Verdict {
	case KVMWorks:
		c.Level, c.Means = banger.LevelOK, "guests run at the processor's own speed"
	case KVMCrawls:
		c.Means = "KVM opens, but its guests are many times too slow, so it isn't used: " + h.withoutKVM()
	case KVMBroken:
		c.Means = "KVM opens, but can't run a guest, so it isn't used: " + h.withoutKVM()
	}
	r.Add(c)
	if !got.SteadyClock {
		r.Add(check("clock", banger.LevelWarn, "the processor's time stamp counter isn't constant", "emulated guests may take a second try to boot, and their clocks drift", ""))
	}
}

// withoutKVM says what VMs are on a host where KVM doesn't work.
func (h *Host) withoutKVM() string {
	if h.Isolation == banger.ByProcess {
		return "VMs run as processes in a jail: nearly as fast as the host; the jail alone keeps them from it"
	}
	return "guests are emulated: everything works, many times slower than the host"
}

// hypervisor looks at QEMU and Firecracker, and says which is chosen and why.
func hypervisor(ctx context.Context, h *Host, r *banger.Report) {
	path, version, note, err := h.QEMU(ctx)
	q := banger.KnownHypervisor{Name: "qemu", Path: path, Version: version}
	fetchOr := "`banger hypervisor install qemu` fetches it now; or " + h.install("qemu")
	switch {
	case err != nil && h.Isolation == banger.ByProcess:
		q.Missing = err.Error()
		r.Add(check("qemu", banger.LevelNote, err.Error(), "not needed; it is fetched when a VM is to be emulated", fetchOr))
	case err != nil && h.Hypervisor != q.Name:
		q.Missing = err.Error()
		r.Add(check("qemu", banger.LevelNote, err.Error(), "not needed; it is fetched when a VM is to run on it", fetchOr))
	case err != nil:
		q.Missing = err.Error()
		r.Add(check("qemu", banger.LevelNote, err.Error(), "the first VM fetches it, of Debian's packages", fetchOr))
	default:
		r.Add(banger.Check{Name: "qemu", Level: banger.LevelOK, Found: path + " is version " + version, Means: note})
	}
	if h.Settings.Insecure {
		r.Add(check("sandbox", banger.LevelWarn, "insecure_vmm is true in config.toml", "where a VMM can't have its sandbox, it runs without; a guest that breaks out of it then has all rights of the daemon's user", "insecure_vmm = false"))
	}
	f := lookAtFirecracker(ctx, h, r)
	r.Hypervisors = []banger.KnownHypervisor{f, q, userMode(ctx, h)}
	for i := range r.Hypervisors {
		if r.Hypervisors[i].Name == h.Hypervisor {
			r.Hypervisors[i].Default, r.Hypervisors[i].Why = true, h.Why
		}
	}
	r.Drivers = append(r.Drivers, choice("hypervisor", h.Hypervisor, "that of its isolation"))
}

// lookAtFirecracker says which Firecracker there is, and which security holes it has.
func lookAtFirecracker(ctx context.Context, h *Host, r *banger.Report) banger.KnownHypervisor {
	f, err := h.Firecracker(ctx)
	got := banger.KnownHypervisor{Name: "firecracker", Path: f.Path, Version: f.Version, Tested: f.Tested, Holes: f.Holes}
	if err != nil {
		got.Missing = err.Error()
		c := check("firecracker", banger.LevelNote, err.Error(), "not needed", "`banger hypervisor install`, if you want it")
		if h.Hypervisor == got.Name {
			c.Level, c.Means, c.Mend = banger.LevelFail, "no VM can run: config.toml wants it", "banger hypervisor install, or set hypervisor to auto in config.toml"
		}
		r.Add(c)
		return got
	}
	c := banger.Check{Name: "firecracker", Level: banger.LevelOK, Found: fmt.Sprintf("%s is version %s, the one banger was tested with", f.Path, f.Version)}
	if f.Version != f.Tested {
		c.Level, c.Found = banger.LevelNote, fmt.Sprintf("%s is version %s; banger was tested with %s", f.Path, f.Version, f.Tested)
	}
	if len(f.Holes) > 0 {
		c.Level, c.Means = banger.LevelNote, "known holes: "+strings.Join(f.Holes, "; ")
	}
	r.Add(c)
	return got
}

// disks says which disks new VMs get, and if those are device-mapper's, whether this
// host can make them.
func disks(_ context.Context, h *Host, r *banger.Report) {
	if h.Settings.DiskDriver != "dm-snapshot" {
		r.Drivers = append(r.Drivers, choice("disk", "file", "sparse files, which need no root"))
		return
	}
	r.Drivers = append(r.Drivers, choice("disk", "dm-snapshot", "config.toml says so"))
	const means = "no new VM's disk can be attached"
	switch _, err := os.Stat(filepath.Join(h.Root, "/dev/mapper/control")); {
	case h.UID != 0:
		r.Add(check("dm-snapshot", banger.LevelFail, "disk_driver is dm-snapshot, and this isn't root", means, "set disk_driver to file in config.toml, or run banger as root"))
	case err != nil:
		r.Add(check("dm-snapshot", banger.LevelFail, err.Error(), means, "modprobe dm_snapshot; or set disk_driver to file in config.toml"))
	default:
		r.Add(banger.Check{Name: "dm-snapshot", Level: banger.LevelOK, Found: "device-mapper is there"})
	}
}

// repositories looks at the git that reads them for guests.
func repositories(ctx context.Context, h *Host, r *banger.Report) {
	const means = "`vm run PATH` can't copy a repository; all else works"
	if _, err := h.LookPath("git"); err != nil {
		r.Add(check("git", banger.LevelWarn, "git is not in PATH", means, h.install("git")))
		return
	}
	g, err := h.Git(ctx)
	switch {
	case err != nil:
		r.Add(check("git", banger.LevelWarn, err.Error(), means, h.install("git")))
	case g.Old:
		r.Add(check("git", banger.LevelWarn, fmt.Sprintf("git is version %s; from %s on it refuses repositories of other users", g.Version, g.Oldest),
			"a repository that came as an archive may make git read files outside of it, unless your distribution has mended this git", h.install("git")))
	default:
		r.Add(banger.Check{Name: "git", Level: banger.LevelOK, Found: "git is version " + g.Version})
	}
}

func network(_ context.Context, h *Host, r *banger.Report) {
	why := map[string]string{"user": "a network stack in a process of yours, which needs no root", "bridge": "config.toml says so; it needs root", "none": "config.toml says so"}
	r.Drivers = append(r.Drivers, choice("network", h.Settings.Net, why[h.Settings.Net]))
	if h.Settings.Net == string(banger.NetBridge) && h.UID != 0 {
		r.Add(check("bridge", banger.LevelFail, "net is bridge, and this isn't root", "no new VM can be made without --net user", "set net to user in config.toml, or run banger as root"))
	}
	obstacles(h, r)
}

// obstacles looks for firewall rules of others that drop what VMs on the bridge send.
func obstacles(h *Host, r *banger.Report) {
	list, err := h.Obstacles()
	if err != nil {
		r.Add(check("forwarding", banger.LevelWarn, "the host's firewall can't be read: "+err.Error(), "it isn't known whether VMs on the bridge reach other networks", ""))
		return
	}
	for _, chain := range list {
		r.Add(check("forwarding", banger.LevelWarn, chain+" drops what is routed unless a rule accepts it, and has none for banger0",
			"VMs on the bridge reach nothing beyond this host",
			"accept them there; by iptables: iptables -I FORWARD -i banger0 -j ACCEPT; iptables -I FORWARD -o banger0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT (with Docker: DOCKER-USER in place of FORWARD)"))
	}
}

// memory compares what is free with what a VM gets.
func memory(_ context.Context, h *Host, r *banger.Report) {
	mib := 0
	for line := range strings.Lines(h.text("/proc/meminfo")) {
		var kib int
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			mib = kib >> 10
		}
	}
	c := banger.Check{Name: "memory", Level: banger.LevelOK, Found: fmt.Sprintf("%d MiB are available; a VM gets %d MiB, in %s, and %d of the CPUs", mib, h.Settings.MemoryMiB, h.RAMDir, h.Settings.VCPU)}
	fs, err := h.Filesystem(h.RAMDir)
	switch {
	case mib < h.Settings.MemoryMiB:
		c.Level, c.Means, c.Mend = banger.LevelWarn, "a VM of the default size won't start", fmt.Sprintf("`--memory %dM` makes a smaller one; memory_mib in config.toml makes that the default", max(banger.MinMemoryMiB, mib/2))
	case err == nil && int(fs.Free>>20) < h.Settings.MemoryMiB:
		c.Level, c.Means = banger.LevelWarn, fmt.Sprintf("%s has room for %d MiB only: a VM of the default size won't start", h.RAMDir, fs.Free>>20)
		c.Mend = "free some there, or take a smaller --memory"
	}
	r.Add(c)
}

// bound says whether the host holds a VM to its memory.
func bound(_ context.Context, h *Host, r *banger.Report) {
	how, err := h.Bound()
	if err == nil {
		r.Add(banger.Check{Name: "memory bound", Level: banger.LevelOK, Found: "a VM's processes may use its guest's memory and 1 GiB more; this is enforced by " + how})
		return
	}
	c := check("memory bound", banger.LevelNote, err.Error(), "only banger limits what a VM's processes use beside its guest's memory; the kernel doesn't, too", "")
	if _, systemd := os.Stat(filepath.Join(h.Root, "/run/systemd/system")); h.UID != 0 && systemd == nil {
		c.Mend = "loginctl enable-linger " + h.User
	}
	r.Add(c)
}

// ago is a number of days before now, in words.
func ago(days int) string {
	switch days {
	case 0:
		return "today"
	case 1:
		return "yesterday"
	}
	return fmt.Sprintf("%d days ago", days)
}

// longUnseen is how many days after the last look at the archive there will be security
// updates.
const longUnseen = 14

// kernel says whether guests' kernel has its security updates, as far as is known.
func kernel(_ context.Context, h *Host, r *banger.Report) {
	k, err := h.Kernel()
	c := banger.Check{Name: "kernel", Level: banger.LevelOK}
	days := int(time.Since(k.Looked).Hours() / 24)
	looked := fmt.Sprintf("%s is %s; updates were looked for %s", k.Name, k.Version, ago(days))
	switch {
	case err != nil:
		c = check("kernel", banger.LevelWarn, err.Error(), "it isn't known whether the guests' kernel has its security updates", "banger kernel pull --update")
	case k.Version == "":
		c.Level, c.Found, c.Means = banger.LevelNote, "there is no kernel "+k.Name+" yet", "the first VM that is made fetches it"
	case k.Behind:
		c = check("kernel", banger.LevelWarn, fmt.Sprintf("%s is %s; %s came out at least %d days ago", k.Name, k.Version, k.Newest, days),
			"new guests run without its security updates", "banger kernel pull --update; only VMs made after that have it")
	case days > longUnseen:
		c = check("kernel", banger.LevelWarn, looked, "guests may run without security updates", "banger kernel pull --update")
	case k.Older:
		c = check("kernel", banger.LevelNote, fmt.Sprintf("%s; Debian's own kernel is %s", looked, k.Current),
			"Debian builds this one anew only at point releases: until then it lacks the fixes that came between the two", "")
	default:
		c.Found = looked
		if k.Current != "" {
			c.Found += "; Debian's own kernel is " + k.Current
		}
	}
	r.Add(c)
}

// warmth looks at whether VMs can be restored instead of booted.
func warmth(_ context.Context, h *Host, r *banger.Report) {
	c := banger.Check{Name: "warm start", Level: banger.LevelNote}
	switch n := h.Templates(); {
	case !h.Settings.WarmStart:
		c.Found, c.Means, c.Mend = "warm_start is false in config.toml", "every VM is booted", "warm_start = true makes them start from templates"
	case n == 0 && h.Isolation == banger.ByProcess:
		c.Level, c.Found = banger.LevelOK, "VMs boot in a second, so they need no templates"
	case n == 0:
		c.Found, c.Means, c.Mend = "there are no templates yet", "the next VM is booted, and one is made after it", "`banger template create` makes one now"
	default:
		c.Level, c.Found = banger.LevelOK, fmt.Sprintf("templates: %d; VMs of their kinds are restored, not booted", n)
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
	"debian": {"qemu": "qemu-system-x86", "git": "git"},
	"fedora": {"qemu": "qemu-system-x86-core", "git": "git-core"},
	"arch":   {"qemu": "qemu-system-x86", "git": "git"},
	"suse":   {"qemu": "qemu-x86", "git": "git-core"},
	"alpine": {"qemu": "qemu-system-x86_64", "git": "git"},
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

// family is the family of this distribution, by os-release(5).
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

// handed looks at what VMs get of this user.
func handed(_ context.Context, h *Host, r *banger.Report) {
	if err := h.Settings.Handed; err != nil {
		r.Add(check("certificates", banger.LevelFail, err.Error(), "no VM starts without the certificates that it should have", "name another file, or leave guest_ca out"))
	}
	for _, kv := range h.Settings.Proxy {
		_, value, _ := strings.Cut(kv, "=")
		u, err := url.Parse(value)
		if err != nil || u.Hostname() == "" {
			continue // no_proxy
		}
		if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
			r.Add(check("proxy", banger.LevelWarn, "VMs are told to use "+u.Host, "that is this host itself, which VMs can't reach: what uses a proxy there has no network", "have the proxy listen on another machine's address, or leave guest_proxy out"))
			return
		}
	}
}

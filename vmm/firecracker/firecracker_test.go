package firecracker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/fetch/debian"
	"banger/host/proc"
	"banger/image/rootfs"
	"banger/kernel"
	"banger/test/hypervisortest"
	"banger/test/vmtest"
	"banger/vmm/firecracker"
	"banger/vmm/kvm"
)

// newDriver returns one for the Firecracker that BANGER_FIRECRACKER names, or that
// is in PATH, on a host whose KVM works. There is no other way to run it.
func newDriver(t testing.TB) *firecracker.Driver {
	t.Helper()
	return newDriverOf(t, false)
}

func newDriverOf(t testing.TB, jail bool) *firecracker.Driver {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a VM")
	}
	binary := os.Getenv("BANGER_FIRECRACKER")
	if binary == "" {
		var err error
		if binary, err = exec.LookPath("firecracker"); err != nil {
			t.Skip(err)
		}
	}
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	host, err := kvm.Cached(t.Context(), filepath.Join(t.TempDir(), "kvm.json"))
	if err != nil {
		t.Fatal(err)
	}
	if host.Verdict != kvm.Works {
		t.Skipf("KVM doesn't work here: %s", host.Detail)
	}
	if jail {
		if os.Getuid() != 0 {
			t.Skip("a jail takes root")
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(binary), "jailer")); err != nil {
			t.Skip(err)
		}
	}
	return firecracker.New(firecracker.Config{Binaries: []string{binary}, Shim: filepath.Join(bin, "banger-shim"), CacheDir: t.TempDir(), Jail: jail})
}

// programs builds what a VM needs of ours, once. BANGER_BIN names a directory
// where they are built already, for a machine without Go.
var programs = sync.OnceValues(func() (dir string, err error) {
	if built := os.Getenv("BANGER_BIN"); built != "" {
		return built, nil
	}
	base, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(base, "bin")
	cmd := exec.Command("go", "build", "-o", dir+"/", "banger/cmd/banger-shim", "banger/cmd/banger-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

// cacheDir is the QEMU tests' too: the same kernel.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "banger-test", "qemu")
	return dir, os.MkdirAll(dir, 0o700)
}

// bootFiles fetches Debian's kernel, once per user, and makes an initramfs with
// today's agent.
var bootFiles = sync.OnceValues(func() (banger.BootFiles, error) {
	bin, err := programs()
	if err != nil {
		return banger.BootFiles{}, err
	}
	base, err := cacheDir()
	if err != nil {
		return banger.BootFiles{}, err
	}
	k := &kernel.Kernels{
		Dir: filepath.Join(base, "kernels"), From: debian.Source{CacheDir: filepath.Join(base, "downloads")},
		Agent: filepath.Join(bin, "banger-agent"),
		Flatten: func(ctx context.Context, tar io.Reader, out *os.File) error {
			_, err := rootfs.Write(ctx, tar, out, nil)
			return err
		},
	}
	got, err := k.Pull(context.Background(), kernel.DefaultName, false, nil)
	if err != nil {
		return banger.BootFiles{}, err
	}
	return k.Boot(context.Background(), got.ID)
})

// newMachine returns a machine that boots to its agent. Its directory lies too
// deep for a socket's path.
func newMachine(t testing.TB) banger.Machine {
	t.Helper()
	boot, err := bootFiles()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep, ", 20), "vm")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "with, a comma")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	return banger.Machine{
		ID: strconv.FormatInt(time.Now().UnixNano(), 16), Dir: dir, RAMDir: t.TempDir(),
		VCPU: 1, MemoryMiB: 256, Kernel: boot.Vmlinux, Initramfs: boot.Initramfs,
		Drives: []banger.Drive{{Serial: "modules", Path: boot.Modules, ReadOnly: true}, {Serial: "disk", Path: disk}},
		Net:    banger.NetConfig{Mode: banger.NetUser, MAC: "52:54:00:12:34:56", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: "10.0.2.3"},
	}
}

// killLater ends the machine with the test, whatever the test did to it.
func killLater(t testing.TB, d *firecracker.Driver, m banger.Machine) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if left, err := d.Kill(ctx, m, banger.Handles{}); err != nil {
			t.Errorf("end of the test: Kill left %+v: %v", left, err)
		}
	})
}

func TestContract(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Bed {
		d := newDriver(t)
		m := newMachine(t)
		killLater(t, d, m)
		return hypervisortest.Bed{Hypervisor: d, Machine: m, Host: host{}, NoRAMFile: true}
	})
}

func TestContractJailed(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Bed {
		d := newDriverOf(t, true)
		m := newMachine(t)
		killLater(t, d, m)
		return hypervisortest.Bed{Hypervisor: d, Machine: m, Host: host{}, NoRAMFile: true}
	})
}

func TestTemplateContract(t *testing.T) { templateContract(t, false) }

func TestTemplateContractJailed(t *testing.T) { templateContract(t, true) }

func templateContract(t *testing.T, jail bool) {
	hypervisortest.RunTemplates(t, func(t *testing.T) hypervisortest.TemplateBed {
		d := newDriverOf(t, jail)
		another := func(t *testing.T) banger.Machine {
			m := newMachine(t)
			killLater(t, d, m)
			return m
		}
		return hypervisortest.TemplateBed{
			Bed:     hypervisortest.Bed{Hypervisor: d, Machine: another(t), Host: host{}, NoRAMFile: true},
			Another: another, OpenFiles: jail,
		}
	})
}

// A jailed Firecracker is a nobody in a root of its own, without a mount on the
// host; one that failed to start leaves nothing of its jail.
func TestJail(t *testing.T) {
	d := newDriverOf(t, true)
	m := newMachine(t)
	h := start(t, d, m)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.VMM.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in %s", want, status)
		}
	}
	if strings.Contains(string(status), "\nUid:\t0\t") {
		t.Error("Firecracker is root")
	}
	if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", h.VMM.PID)); err != nil || root != "/" {
		t.Errorf("its root is %q, %v", root, err) // "/" of its mount namespace
	}
	if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", h.VMM.PID)); err != nil || len(entries) > 16 {
		t.Errorf("it sees %v, %v", entries, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), m.ID) || strings.Contains(string(mounts), "vm/jail") {
		t.Errorf("mounts of its jail are left, %v", err)
	}
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", h.VMM.PID))
	if err != nil || !strings.Contains(string(cgroup), "/banger-"+m.ID+"/banger-"+m.ID) {
		t.Errorf("its cgroup is %q, %v", cgroup, err)
	}
	if max, err := os.ReadFile("/sys/fs/cgroup/banger-" + m.ID + "/banger-" + m.ID + "/memory.max"); err != nil || strings.TrimSpace(string(max)) == "max" {
		t.Errorf("its memory is bounded to %q, %v", max, err)
	}
	// A daemon that died in a start leaves mounts, which the next one takes away.
	at := filepath.Join(m.Dir, "jail", "left")
	if err := errors.Join(os.WriteFile(at, nil, 0o600), unix.Mount(m.Kernel, at, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	if got, alive, err := d.Adopt(t.Context(), m, h); err != nil || !alive || got != h {
		t.Errorf("Adopt: %+v, alive %v, %v; want %+v", got, alive, err, h)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), m.ID) || strings.Contains(string(mounts), "vm/jail") {
		t.Errorf("a mount of its jail is left, %v", err)
	}
	if left, err := d.Kill(t.Context(), m, h); err != nil || !left.Empty() {
		t.Errorf("Kill left %+v: %v", left, err)
	}
	m.Drives[1].Path = filepath.Join(m.Dir, "no-such-disk")
	if _, err := d.Start(t.Context(), m); err == nil {
		t.Error("a machine without its disk was started")
	}
	if held := (host{}).Held(t, m); len(held) > 0 {
		t.Errorf("left behind: %q", held)
	}
}

// host is this one.
type host struct{ vmtest.Processes }

// Bystander is a shell whose arguments are a VMM's and a shim's.
func (host) Bystander(t *testing.T, m banger.Machine) banger.Process {
	t.Helper()
	return vmtest.Shell(t, "sh", "-c", "read line", "firecracker", "--id", "banger-"+m.ID, m.Dir)
}

func (host) Held(t *testing.T, m banger.Machine) (held []string) {
	t.Helper()
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range cmdlines {
		b, err := os.ReadFile(path)
		if err == nil && !strings.HasPrefix(string(b), "sh\x00") && (strings.Contains(string(b), "banger-"+m.ID) || strings.Contains(string(b), m.Dir)) {
			held = append(held, fmt.Sprintf("%s: %.100q", path, b))
		}
	}
	for _, pattern := range []string{filepath.Join(m.RAMDir, "*"), filepath.Join(m.Dir, "*.fifo"), filepath.Join(m.Dir, "firecracker.json"), filepath.Join(m.Dir, "jail"), "/sys/fs/cgroup/banger-" + m.ID} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, files...)
	}
	return held
}

func start(t testing.TB, d *firecracker.Driver, m banger.Machine) banger.Handles {
	t.Helper()
	killLater(t, d, m)
	h, err := d.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestStartOfARunningMachine(t *testing.T) {
	d := newDriver(t)
	m := newMachine(t)
	h := start(t, d, m)
	if _, err := d.Start(t.Context(), m); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("error %v, want code %q", err, banger.CodeConflict)
	}
	if !proc.Alive(h.VMM) || !proc.Alive(h.Shim) {
		t.Error("the refused Start ended the machine")
	}
}

// Without its API a VMM is still found, by its id.
func TestAdoptWithoutAPI(t *testing.T) {
	d := newDriver(t)
	m := newMachine(t)
	h := start(t, d, m)
	if err := os.Remove(filepath.Join(m.Dir, "api.sock")); err != nil {
		t.Fatal(err)
	}
	for _, saved := range []banger.Handles{{}, h} {
		if got, alive, err := d.Adopt(t.Context(), m, saved); err != nil || !alive || got != h {
			t.Errorf("Adopt(%+v): %+v, alive %v, %v; want %+v", saved, got, alive, err, h)
		}
	}
}

// A stopped VMM answers nobody and ignores a polite request to end.
func TestKillStoppedVMM(t *testing.T) {
	d := newDriver(t)
	m := newMachine(t)
	h := start(t, d, m)
	if err := proc.Kill(h.VMM, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if got, alive, err := d.Adopt(t.Context(), m, h); err != nil || !alive || got != h {
		t.Errorf("Adopt: %+v, alive %v, %v; want %+v", got, alive, err, h)
	}
	if left, err := d.Kill(t.Context(), m, h); err != nil || !left.Empty() {
		t.Errorf("Kill left %+v: %v", left, err)
	}
	if held := (host{}).Held(t, m); len(held) > 0 {
		t.Errorf("left behind: %q", held)
	}
}

func TestFilesArePrivate(t *testing.T) {
	d := newDriver(t)
	m := newMachine(t)
	start(t, d, m)
	files, err := os.ReadDir(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Type() != os.ModeSymlink && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", f.Name(), info.Mode())
		}
	}
}

// A machine that can't be is refused: by Firecracker in its own words, and with the
// name of a disk that isn't there.
func TestRefused(t *testing.T) {
	for says, spoil := range map[string]func(m *banger.Machine){
		"no-such-disk":   func(m *banger.Machine) { m.Drives[1].Path = filepath.Join(m.Dir, "no-such-disk") },
		"Is a directory": func(m *banger.Machine) { m.Drives[1].Path = m.Dir },
	} {
		d := newDriver(t)
		m := newMachine(t)
		spoil(&m)
		if _, err := d.Start(t.Context(), m); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q in it", err, says)
		}
		if held := (host{}).Held(t, m); len(held) > 0 {
			t.Errorf("left behind: %q", held)
		}
	}
}

func TestBadMachines(t *testing.T) {
	d := firecracker.New(firecracker.Config{Binaries: []string{"/bin/false"}})
	good := banger.Machine{ID: "a1", Dir: "/d", VCPU: 1, MemoryMiB: 256, Kernel: "/k", Initramfs: "/i"}
	for name, spoil := range map[string]func(*banger.Machine){
		"no id":                func(m *banger.Machine) { m.ID = "" },
		"id with a slash":      func(m *banger.Machine) { m.ID = "../a" },
		"long id":              func(m *banger.Machine) { m.ID = strings.Repeat("a", 49) },
		"no CPU":               func(m *banger.Machine) { m.VCPU = 0 },
		"too many CPUs":        func(m *banger.Machine) { m.VCPU = 33 },
		"little memory":        func(m *banger.Machine) { m.MemoryMiB = banger.MinMemoryMiB - 1 },
		"relative kernel":      func(m *banger.Machine) { m.Kernel = "k" },
		"relative drive":       func(m *banger.Machine) { m.Drives = []banger.Drive{{Serial: "a", Path: "b"}} },
		"serial with a comma":  func(m *banger.Machine) { m.Drives = []banger.Drive{{Serial: "a,b", Path: "/b"}} },
		"serial with a blank":  func(m *banger.Machine) { m.Drives = []banger.Drive{{Serial: "a init=/b", Path: "/b"}} },
		"many drives":          func(m *banger.Machine) { m.Drives = make([]banger.Drive, 27) },
		"bridge without a TAP": func(m *banger.Machine) { m.Net.Mode = banger.NetBridge },
	} {
		m := good
		spoil(&m)
		if _, err := d.Start(t.Context(), m); banger.CodeOf(err) != banger.CodeInvalid {
			t.Errorf("%s: error %v, want code %q", name, err, banger.CodeInvalid)
		}
	}
}

func TestBinaries(t *testing.T) {
	m := banger.Machine{ID: "a1", Dir: t.TempDir(), VCPU: 1, MemoryMiB: 256, Kernel: "/k", Initramfs: "/i"}
	for name, c := range map[string]struct{ script, want string }{
		"old":    {"echo Firecracker v1.13.1", "at least 1.14.0"},
		"other":  {"echo hello", "isn't a Firecracker"},
		"broken": {"exit 3", "exit status 3"},
		"new":    {"echo Firecracker v2.0.0", "no-such-shim"},
	} {
		bin := filepath.Join(t.TempDir(), "firecracker")
		if err := os.WriteFile(bin, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := firecracker.New(firecracker.Config{Binaries: []string{"no-such-one", bin}, Shim: "/no-such-shim"}).Start(t.Context(), m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
	_, err := firecracker.New(firecracker.Config{Binaries: []string{"no-such-firecracker"}}).Start(t.Context(), m)
	var e *banger.Error
	if !errors.As(err, &e) || e.Code != banger.CodeUnavailable || e.Hint == "" {
		t.Errorf("no binary: %+v, want code %q and a hint", err, banger.CodeUnavailable)
	}
}

func TestHoles(t *testing.T) {
	for version, want := range map[string]string{
		"1.13.1": "CVE-2026-1386", "1.14.0": "CVE-2026-1386", "1.14.1": "CVE-2026-5747", "1.15.0": "CVE-2026-5747",
		"1.14.4": "", "1.15.1": "", "1.16.0": "vsock", firecracker.Tested: "vsock", "1.17.0": "", "odd": "",
	} {
		if got := strings.Join(firecracker.Holes(version), " "); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", version, got, want)
		}
	}
}

func TestNoKVM(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "firecracker")
	if err := os.WriteFile(bin, []byte("#!/bin/sh\necho Firecracker v1.16.1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	m := banger.Machine{ID: "a1", Dir: t.TempDir(), VCPU: 1, MemoryMiB: 256, Kernel: "/k", Initramfs: "/i"}
	_, err := firecracker.New(firecracker.Config{Binaries: []string{bin}, NoKVM: "there is no /dev/kvm"}).Start(t.Context(), m)
	if banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "there is no /dev/kvm") {
		t.Errorf("error %v, want code %q and the reason", err, banger.CodeUnavailable)
	}
}

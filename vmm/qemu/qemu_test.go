package qemu_test

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
	"banger/vmm/kvm"
	"banger/vmm/qemu"
)

// need skips the test where a tool is missing.
func need(t testing.TB, tools ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a VM")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing", tool)
		}
	}
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

func newDriver(t testing.TB) (*qemu.Driver, qemu.Config) {
	t.Helper()
	need(t, "qemu-system-x86_64")
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	base, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	host, err := kvm.Cached(t.Context(), filepath.Join(base, "kvm.json"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := qemu.Config{Shim: filepath.Join(bin, "banger-shim"), CacheDir: t.TempDir(), KVM: host.Verdict == kvm.Works, TSCKHz: host.TSCKHz}
	return qemu.New(cfg), cfg
}

// newMachine returns a machine that boots to its agent. Its directory lies too
// deep for a socket's path, and its name needs quoting.
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
	return banger.Machine{
		ID: strconv.FormatInt(time.Now().UnixNano(), 16), Dir: dir, RAMDir: t.TempDir(),
		VCPU: 1, MemoryMiB: 256, Kernel: boot.Vmlinux, Initramfs: boot.Initramfs,
		Drives: []banger.Drive{{Serial: "modules", Path: boot.Modules, ReadOnly: true}, {Serial: "disk", Path: newDrive(t)}},
		Net:    banger.NetConfig{Mode: banger.NetUser, MAC: "52:54:00:12:34:56", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: "10.0.2.3"},
	}
}

func newDrive(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "with, a comma")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	return path
}

// killLater ends the machine with the test, whatever the test did to it.
func killLater(t testing.TB, d *qemu.Driver, m banger.Machine) {
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
		d, _ := newDriver(t)
		m := newMachine(t)
		killLater(t, d, m)
		return hypervisortest.Bed{Hypervisor: d, Machine: m, Host: host{}}
	})
}

// host is this one.
type host struct{ vmtest.Processes }

// Bystander is a shell whose arguments are a VMM's and a shim's.
func (host) Bystander(t *testing.T, m banger.Machine) banger.Process {
	t.Helper()
	return vmtest.Shell(t, "sh", "-c", "read line", "qemu-system-x86_64", "-name", "banger-"+m.ID, m.Dir)
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
	files, err := os.ReadDir(m.RAMDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		held = append(held, filepath.Join(m.RAMDir, f.Name()))
	}
	return held
}

// start starts a machine and returns its handles.
func start(t testing.TB, d *qemu.Driver, m banger.Machine) banger.Handles {
	t.Helper()
	killLater(t, d, m)
	h, err := d.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestFilesArePrivate(t *testing.T) {
	d, _ := newDriver(t)
	m := newMachine(t)
	h := start(t, d, m)
	st, err := os.Stat(h.RAMFile)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 || st.Size() != 256<<20 {
		t.Errorf("guest memory is %v with %d bytes, want 0600 and 256 MiB", st.Mode(), st.Size())
	}
	files, err := os.ReadDir(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", f.Name(), info.Mode())
		}
	}
}

// Two machines can't open one disk, and the error says so.
func TestDiskInUse(t *testing.T) {
	d, _ := newDriver(t)
	first, second := newMachine(t), newMachine(t)
	second.Drives = first.Drives
	start(t, d, first)
	_, err := d.Start(t.Context(), second)
	if err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("error %v, want QEMU's word about the lock", err)
	}
	if held := (host{}).Held(t, second); len(held) > 0 {
		t.Errorf("left behind: %q", held)
	}
}

// There is no room for what QEMU itself puts into the guest's memory: the error
// says so, and nothing is left.
func TestNoRoomForMemory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small filesystem")
	}
	d, _ := newDriver(t)
	m := newMachine(t)
	if err := unix.Mount("banger-test", m.RAMDir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("no tmpfs can be mounted here:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(m.RAMDir, 0); err != nil {
			t.Error("umount:", err)
		}
	})
	_, err := d.Start(t.Context(), m)
	if banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "is full") {
		t.Errorf("error %v, want that the filesystem is full", err)
	}
	if held := (host{}).Held(t, m); len(held) > 0 {
		t.Errorf("left behind: %q", held)
	}
}

func TestStartOfARunningMachine(t *testing.T) {
	d, _ := newDriver(t)
	m := newMachine(t)
	h := start(t, d, m)
	if _, err := d.Start(t.Context(), m); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("error %v, want code %q", err, banger.CodeConflict)
	}
	if !proc.Alive(h.VMM) || !proc.Alive(h.Shim) {
		t.Error("the refused Start ended the machine")
	}
}

// Without its monitor a VMM is still found, by its name.
func TestAdoptWithoutMonitor(t *testing.T) {
	d, _ := newDriver(t)
	m := newMachine(t)
	h := start(t, d, m)
	if err := os.Remove(filepath.Join(m.Dir, "qmp.sock")); err != nil {
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
	d, _ := newDriver(t)
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

func TestBadMachines(t *testing.T) {
	d := qemu.New(qemu.Config{Binary: "/bin/false"})
	good := banger.Machine{ID: "a1", Dir: "/d", RAMDir: "/r", VCPU: 1, MemoryMiB: 256, Kernel: "/k", Initramfs: "/i"}
	for name, spoil := range map[string]func(*banger.Machine){
		"no id":           func(m *banger.Machine) { m.ID = "" },
		"id with a comma": func(m *banger.Machine) { m.ID = "a,process=b" },
		"id with a slash": func(m *banger.Machine) { m.ID = "../a" },
		"no CPU":          func(m *banger.Machine) { m.VCPU = 0 },
		"too many CPUs":   func(m *banger.Machine) { m.VCPU = banger.MaxVCPU + 1 },
		"little memory":   func(m *banger.Machine) { m.MemoryMiB = banger.MinMemoryMiB - 1 },
		"relative kernel": func(m *banger.Machine) { m.Kernel = "k" },
		"relative drive":  func(m *banger.Machine) { m.Drives = []banger.Drive{{Serial: "a", Path: "b"}} },
		"long serial":     func(m *banger.Machine) { m.Drives = []banger.Drive{{Serial: strings.Repeat("s", 21), Path: "/b"}} },
		"rate limits":     func(m *banger.Machine) { m.Limits.NetMiB = 1 },
		"many drives":     func(m *banger.Machine) { m.Drives = make([]banger.Drive, 6) },
	} {
		m := good
		spoil(&m)
		if _, err := d.Start(t.Context(), m); banger.CodeOf(err) != banger.CodeInvalid {
			t.Errorf("%s: error %v, want code %q", name, err, banger.CodeInvalid)
		}
	}
}

func TestBinaries(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"old":          {"echo QEMU emulator version 6.2.0", "at least 7.2"},
		"other":        {"echo hello", "isn't a QEMU"},
		"broken":       {"exit 3", "exit status 3"},
		"no microvm":   {`case $* in -version) echo QEMU emulator version 9.0.1;; *) echo "pc  a machine";; esac`, "no microvm"},
		"no sandbox":   {`case $* in -version) echo QEMU emulator version 9.0.1;; -sandbox*) echo not today >&2; exit 1;; *) printf 'x\nmicrovm  m\n';; esac`, "can't have its sandbox: \"not today\""},
		"with sandbox": {`case $* in -version) echo QEMU emulator version 10.1.0;; *) printf 'x\nmicrovm  m\n';; esac`, "no-such-drive"},
	} {
		bin := filepath.Join(t.TempDir(), "qemu")
		if err := os.WriteFile(bin, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		m := banger.Machine{ID: "a1", Dir: dir, RAMDir: dir, VCPU: 1, MemoryMiB: 256, Kernel: "/k", Initramfs: "/i", Drives: []banger.Drive{{Serial: "x", Path: "/no-such-drive"}}}
		if _, err := qemu.New(qemu.Config{Binary: bin}).Start(t.Context(), m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
	_, err := qemu.New(qemu.Config{Binary: "no-such-qemu"}).Start(t.Context(), banger.Machine{ID: "a1", Dir: "/d", RAMDir: "/r", VCPU: 1, MemoryMiB: 256, Kernel: "/k", Initramfs: "/i"})
	var e *banger.Error
	if !errors.As(err, &e) || e.Code != banger.CodeUnavailable || e.Hint == "" {
		t.Errorf("no binary: %+v, want code %q and a hint", err, banger.CodeUnavailable)
	}
}

// A QEMU that can't have its sandbox runs nothing, unless somebody says that it may.
// Only its own word that it was built without one is kept: what else went wrong may be
// over the next time.
func TestSandbox(t *testing.T) {
	const version, list = `case $* in -version) echo QEMU emulator version 9.0.1;; `, `*) printf 'x\nmicrovm  m\n';; esac`
	for name, c := range map[string]struct {
		script string
		kept   bool // although the next try would go well
	}{
		"built without":    {`echo "qemu: -sandbox support is not enabled in this QEMU binary" >&2; exit 1`, true},
		"killed":           {`kill -9 $$`, false},
		"refused for once": {`echo "qemu: failed to install seccomp syscall filter in the kernel" >&2; exit 1`, false},
		"silent":           {`exit 1`, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			bin, tried := filepath.Join(dir, "qemu"), filepath.Join(dir, "tried")
			script := version + `-sandbox*) if test ! -e ` + tried + `; then touch ` + tried + `; ` + c.script + `; fi; printf 'x\nmicrovm  m\n';; ` + list
			if err := os.WriteFile(bin, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			cfg := qemu.Config{Binary: bin, CacheDir: t.TempDir(), Shim: "/no/banger-shim"}
			m := banger.Machine{ID: "a1", Dir: dir, RAMDir: dir, VCPU: 1, MemoryMiB: 256, Kernel: "/k", Initramfs: "/i", Drives: []banger.Drive{{Serial: "x", Path: "/no-such-drive"}}}
			_, err := qemu.New(cfg).Start(t.Context(), m)
			if banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "can't have its sandbox") || !strings.Contains(banger.AsError(err).Hint, "--insecure-vmm") {
				t.Errorf("without a sandbox: %v", err)
			}
			want := "no-such-drive"
			if c.kept {
				want = "can't have its sandbox"
			}
			if _, err := qemu.New(cfg).Start(t.Context(), m); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the next time: %v, want %q in it", err, want)
			}
			for what, allow := range map[string]func(){
				"the machine's word": func() { m.Insecure = true },
				"the host's word":    func() { m.Insecure, cfg.Insecure = false, true },
			} {
				if err := errors.Join(os.Remove(tried), os.RemoveAll(filepath.Join(cfg.CacheDir, "qemu.json"))); err != nil {
					t.Fatal(err)
				}
				allow()
				if _, err := qemu.New(cfg).Start(t.Context(), m); err == nil || !strings.Contains(err.Error(), "no-such-drive") {
					t.Errorf("by %s: %v", what, err)
				}
				m.Insecure, cfg.Insecure = false, false
			}
			_ = os.Remove(tried)
			cfg.Insecure = true
			if _, _, note, err := qemu.New(cfg).Describe(t.Context()); err != nil || !strings.Contains(note, "without its sandbox") {
				t.Errorf("described as %q, %v", note, err)
			}
		})
	}
}

// What is launched may be a script that becomes a program of a name that says nothing,
// as some distributions have it. Its machine is found and ended all the same.
func TestWrappedBinary(t *testing.T) {
	_, cfg := newDriver(t)
	real, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	// It looks for its own beside it.
	dir, prefix := t.TempDir(), filepath.Dir(filepath.Dir(real))
	hidden, wrapper := filepath.Join(dir, "bin", ".emulator-wrapped"), filepath.Join(dir, "emulator")
	script := "#!/bin/sh\nexec " + hidden + " \"$@\"\n"
	if err := errors.Join(os.Mkdir(filepath.Dir(hidden), 0o700), os.WriteFile(hidden, program, 0o700), os.WriteFile(wrapper, []byte(script), 0o700),
		os.Symlink(filepath.Join(prefix, "lib"), filepath.Join(dir, "lib")), os.Symlink(filepath.Join(prefix, "share"), filepath.Join(dir, "share"))); err != nil {
		t.Fatal(err)
	}
	cfg.Binary = wrapper
	d, m := qemu.New(cfg), newMachine(t)
	h := start(t, d, m)
	if err := os.Remove(filepath.Join(m.Dir, "qmp.sock")); err != nil {
		t.Fatal(err)
	}
	for _, saved := range []banger.Handles{{}, h} {
		if got, alive, err := d.Adopt(t.Context(), m, saved); err != nil || !alive || got != h {
			t.Errorf("Adopt(%+v): %+v, alive %v, %v; want %+v", saved, got, alive, err, h)
		}
	}
	if left, err := d.Kill(t.Context(), m, banger.Handles{}); err != nil || !left.Empty() || proc.Alive(h.VMM) {
		t.Errorf("Kill left %+v: %v; the VMM lives: %v", left, err, proc.Alive(h.VMM))
	}
}

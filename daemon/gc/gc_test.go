package gc_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/daemon/gc"
	"banger/host/proc"
	"banger/vmm/firecracker"
	"banger/vmm/qemu"
	"banger/vmm/shim"
)

// TestMain makes this program the impostor of a shim or a VMM, when a copy of it
// has such a name: it waits until its standard input ends.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); name == "banger-shim" || name == "qemu-system-test" || name == "firecracker" {
		if len(os.Args) > 3 {
			f, err := os.Open(os.Args[3])
			if err != nil {
				os.Exit(1)
			}
			defer func() { _ = f.Close() }()
		}
		if root, user := os.Getenv("ROOT"), 0; root != "" {
			_, err := fmt.Sscan(os.Getenv("JAIL_USER"), &user)
			if err := errors.Join(err, syscall.Chroot(root), os.Chdir("/"), syscall.Setgid(user), syscall.Setuid(user)); err != nil {
				panic(err)
			}
		}
		_, _ = os.Stdout.WriteString("up\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	os.Exit(m.Run())
}

const (
	ours  = "0123456789ab" // a VM's
	lost  = "fedcba987654" // nobody's any more
	other = "aaaaaaaaaaaa" // another daemon's
)

type place struct {
	*testing.T
	dir, ram, bin string
}

func (p *place) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *place) program(name string) string {
	path := filepath.Join(p.bin, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	self, err := os.ReadFile("/proc/self/exe")
	p.must(err)
	p.must(os.WriteFile(path, self, 0o700))
	return path
}

// start runs an impostor until the test's end and returns its process id.
func (p *place) start(dir, name string, args ...string) string {
	p.Helper()
	cmd := exec.Command(p.program(name), args...)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	p.must(err)
	out, err := cmd.StdoutPipe()
	p.must(err)
	p.must(cmd.Start())
	_, err = io.ReadFull(out, make([]byte, 3))
	p.must(err)
	p.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	return strconv.Itoa(cmd.Process.Pid)
}

func (p *place) memory(id string, age time.Duration) string {
	path := filepath.Join(p.ram, "banger-"+id+".ram")
	p.must(os.WriteFile(path, nil, 0o600))
	then := time.Now().Add(-age)
	p.must(os.Chtimes(path, then, then))
	return path
}

func begin(t *testing.T) (*place, *gc.Collector) {
	p := &place{T: t, dir: t.TempDir(), ram: t.TempDir(), bin: t.TempDir()}
	for _, id := range []string{ours, lost} {
		p.must(os.MkdirAll(filepath.Join(p.dir, "vms", id), 0o700))
	}
	return p, &gc.Collector{
		Dir: p.dir, RAMDirs: []string{filepath.Join(p.ram, "none"), p.ram}, Now: time.Now,
		Programs: []proc.Program{
			qemu.New(qemu.Config{}).Program(), firecracker.New(firecracker.Config{}).Program(), shim.Program("/elsewhere/banger-shim"),
		},
		VMs: func(context.Context) ([]banger.VM, error) { return []banger.VM{{ID: ours}}, nil },
	}
}

func claims(p *place, c *gc.Collector, opt banger.CollectOptions) map[string]string {
	p.Helper()
	list, err := c.Collect(p.Context(), opt)
	p.must(err)
	got := map[string]string{}
	for _, f := range list {
		if f.Claim == banger.Foreign && (f.Kind == "vmm" || f.Kind == "shim") && f.VM != other {
			continue // somebody else runs banger here
		}
		got[f.Name] = string(f.Claim)
		if f.Removed {
			got[f.Name] += ", removed"
		}
	}
	return got
}

func TestCollect(t *testing.T) {
	p, c := begin(t)
	vms := filepath.Join(p.dir, "vms")
	theirs := t.TempDir()
	p.must(os.MkdirAll(filepath.Join(theirs, other), 0o700))
	disk := filepath.Join(vms, "bbbbbbbbbbbb")
	p.must(os.MkdirAll(disk, 0o700))
	p.must(os.WriteFile(filepath.Join(disk, "disk.ext4"), []byte("precious"), 0o600))
	p.must(os.WriteFile(filepath.Join(vms, "notes"), nil, 0o600))
	p.must(os.WriteFile(filepath.Join(p.ram, "sem.x"), nil, 0o600))
	used := p.memory(other, time.Hour)
	want := map[string]string{
		filepath.Join(vms, ours):    "owned",
		filepath.Join(vms, lost):    "orphaned, removed",
		disk:                        "orphaned",
		filepath.Join(vms, "notes"): "foreign",
		p.memory(ours, time.Hour):   "owned",
		p.memory(lost, time.Hour):   "orphaned, removed",
		p.memory("cccccccccccc", 0): "foreign", // young: another daemon's VMM may be about to open it
		p.memory("x", time.Hour):    "foreign",
		used:                        "foreign", // in use
		p.start(filepath.Join(vms, ours), "qemu-system-test", "-name", "banger-"+ours):            "owned",
		p.start(filepath.Join(vms, lost), "qemu-system-test", "-name", "banger-"+lost):            "orphaned, removed",
		p.start(filepath.Join(theirs, other), "qemu-system-test", "-name", "banger-"+other, used): "foreign",
		p.start("/", "banger-shim", filepath.Join(vms, ours)):                                     "owned",
		p.start("/", "banger-shim", filepath.Join(vms, lost)):                                     "orphaned, removed",
		p.start("/", "banger-shim", filepath.Join(theirs, other)):                                 "foreign",
		p.start(filepath.Join(vms, ours), "firecracker", "--id", "banger-"+ours):                  "owned",
		p.start(filepath.Join(vms, lost), "firecracker", "--id", "banger-"+lost):                  "orphaned, removed",
		p.start(filepath.Join(theirs, other), "firecracker", "--id", "banger-"+other):             "foreign",
	}
	// Neither of these says that it is ours.
	p.start(filepath.Join(vms, lost), "qemu-system-test", "-name", "debian")
	p.start("/", "banger-shim")
	p.start(filepath.Join(vms, lost), "firecracker", "--id", "debian")

	dry := map[string]string{}
	for name, claim := range want {
		if claim == "orphaned, removed" {
			claim = "orphaned"
		}
		dry[name] = claim
	}
	same(t, claims(p, c, banger.CollectOptions{DryRun: true}), dry)
	same(t, claims(p, c, banger.CollectOptions{}), want)
	if raw, err := os.ReadFile(filepath.Join(disk, "disk.ext4")); err != nil || string(raw) != "precious" {
		t.Errorf("the disk was touched: %q, %v", raw, err)
	}
	if _, err := os.Stat(filepath.Join(vms, lost)); err == nil {
		t.Error("said to be removed, and there")
	}
	if got := claims(p, c, banger.CollectOptions{Disks: true})[disk]; got != "orphaned, removed" {
		t.Errorf("with Disks: %q", got)
	}
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, claim := range want {
		if got[name] != claim {
			t.Errorf("%s is %q, want %q", name, got[name], claim)
		}
	}
	for name, claim := range got {
		if want[name] == "" {
			t.Errorf("%s is %q, and wasn't ours to find", name, claim)
		}
	}
}

// A jailed VMM shows neither a directory of ours nor our user; a jail of another
// state directory is not ours to end.
func TestCollectJailed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a jail takes root")
	}
	p, c := begin(t)
	jailed := func(state, id string) string {
		root := filepath.Join(state, "vms", id, "jail", "firecracker", "banger-"+id, "root")
		p.must(os.MkdirAll(root, 0o755))
		h := fnv.New32a()
		_, _ = h.Write([]byte(id))
		t.Setenv("ROOT", root)
		t.Setenv("JAIL_USER", strconv.Itoa(1_900_000_000+int(h.Sum32()%100_000_000)))
		return p.start("/", "firecracker", "--id", "banger-"+id)
	}
	same(t, processes(claims(p, c, banger.CollectOptions{})), map[string]string{})
	want := map[string]string{
		jailed(p.dir, ours): "owned", jailed(p.dir, lost): "orphaned, removed", jailed(t.TempDir(), other): "foreign",
	}
	same(t, processes(claims(p, c, banger.CollectOptions{})), want)
}

// processes leaves out what is a file.
func processes(claims map[string]string) map[string]string {
	maps.DeleteFunc(claims, func(name, _ string) bool { return filepath.IsAbs(name) })
	return claims
}

// A VM that is recorded while the collector looks keeps what was made of it.
func TestBornMeanwhile(t *testing.T) {
	p, c := begin(t)
	late := filepath.Join(p.dir, "vms", "dddddddddddd")
	p.must(os.MkdirAll(late, 0o700))
	c.VMs = func(context.Context) ([]banger.VM, error) {
		return []banger.VM{{ID: ours}, {ID: lost}, {ID: "dddddddddddd"}}, nil
	}
	if got := claims(p, c, banger.CollectOptions{})[late]; got != "owned" {
		t.Errorf("got %q", got)
	}
}

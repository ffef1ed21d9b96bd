package vm_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger"
	"banger/proc"
)

// process is one of an installation's.
type process struct {
	banger.Process
	kind string // "daemon", "cli", "shim", "vmm", "other"
	vm   string // the VM's id, of shim and vmm
	argv []string
}

// processes lists what runs of an installation: its programs, its VMMs, and
// whatever works in its directories or was told of them.
func (h *host) processes() (found []process) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		exe, err := os.Readlink(dir + "/exe")
		if err != nil {
			continue // a kernel thread, or dead
		}
		cwd, _ := os.Readlink(dir + "/cwd")
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		p := process{argv: strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")}
		exe = strings.TrimSuffix(exe, " (deleted)")
		switch exe {
		case filepath.Join(h.bin, "bangerd"):
			p.kind = "daemon"
		case filepath.Join(h.bin, "banger"):
			p.kind = "cli"
		case filepath.Join(h.bin, "banger-shim"):
			p.kind, p.vm = "shim", filepath.Base(p.argv[min(1, len(p.argv)-1)])
		default:
			// A jailed Firecracker's directories are those of its jail.
			if i := slices.Index(p.argv, "--id"); i >= 0 && i+1 < len(p.argv) && strings.HasPrefix(filepath.Base(exe), "firecracker") && *hypervisor == "firecracker" {
				p.kind, p.vm = "vmm", strings.TrimPrefix(p.argv[i+1], "banger-")
				break
			}
			if !within(h.dir(), cwd) && !strings.Contains(string(cmdline), h.dir()+"/") {
				continue
			}
			p.kind = "other"
			if i := slices.Index(p.argv, "-name"); i >= 0 && i+1 < len(p.argv) && strings.HasPrefix(filepath.Base(exe), "qemu-system") {
				p.kind, p.vm = "vmm", strings.TrimPrefix(p.argv[i+1], "banger-")
			}
		}
		if p.Process, err = proc.Read(pid); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// dir is where all of an installation is.
func (h *host) dir() string { return filepath.Dir(h.bin) }

func within(dir, path string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// inventory lists what an installation has on the host, and what nobody else
// owns of the kinds it makes, one line each.
func (h *host) inventory(t *testing.T) (lines []string) {
	t.Helper()
	add := func(kind string, what ...any) {
		lines = append(lines, kind+" "+strings.TrimSpace(fmt.Sprintln(what...)))
	}
	for _, p := range h.processes() {
		add("process", p.kind, p.argv)
	}
	for line := range textLines("/proc/net/unix") {
		if f := strings.Fields(line); len(f) == 8 && within(h.dir(), f[7]) && f[3] == "00010000" { // listening
			add("socket", f[7])
		}
	}
	devices, _ := os.ReadDir("/sys/class/net")
	for _, d := range devices {
		add("network device", d.Name())
	}
	for line := range textLines("/proc/self/mountinfo") {
		if strings.Contains(line, h.dir()) {
			add("mount", line)
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if back, _ := os.ReadFile(l); strings.Contains(string(back), h.dir()) {
			add("loop", strings.TrimSpace(string(back)))
		}
	}
	nodes, _ := filepath.Glob("/sys/block/dm-*/dm/name")
	for _, n := range nodes {
		if name, _ := os.ReadFile(n); strings.HasPrefix(string(name), "banger-") {
			add("device", strings.TrimSpace(string(name)))
		}
	}
	memory, _ := filepath.Glob("/dev/shm/banger-*")
	for _, m := range memory {
		// Another user's is surely none of ours.
		if st, err := os.Stat(m); err == nil && st.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) {
			continue
		}
		if !h.othersMemory(m) {
			add("memory", m)
		}
	}
	for _, root := range []string{h.dir(), "/sys/fs/cgroup"} {
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && (root == h.dir() || strings.Contains(e.Name(), "banger")) {
				add("file", path, e.Type())
			}
			return nil // what vanished meanwhile isn't there
		})
	}
	slices.Sort(lines)
	return lines
}

// othersMemory reports whether a process that isn't this installation's has the
// memory file in its arguments: tests of other packages may run beside us.
func (h *host) othersMemory(path string) bool {
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range cmdlines {
		if b, _ := os.ReadFile(c); strings.Contains(string(b), path) {
			cwd, _ := os.Readlink(filepath.Join(filepath.Dir(c), "cwd"))
			return !within(h.dir(), cwd)
		}
	}
	return false
}

func textLines(path string) func(func(string) bool) {
	return func(yield func(string) bool) {
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan() && yield(in.Text()); {
		}
	}
}

// same waits until the host has what it had before, line by line.
func (h *host) same(t *testing.T, before []string, bound time.Duration) {
	t.Helper()
	var diff string
	for end := time.Now().Add(patience(bound)); ; time.Sleep(100 * time.Millisecond) {
		// A daemon is part of both, and starts when it is asked.
		h.run(nil, "vm", "list")
		if diff = cmp.Diff(before, h.inventory(t)); diff == "" {
			return
		}
		if time.Now().After(end) {
			t.Errorf("the host isn't as it was (- before, + now):\n%s", diff)
			return
		}
	}
}

// autopsy logs what may tell why an installation doesn't get on, and ends its
// daemon and its shims doing so.
func (h *host) autopsy(t *testing.T) {
	const most = 60_000
	for _, p := range h.processes() {
		t.Logf("%s %s, pid %d", p.kind, p.vm, p.PID)
	}
	last := func(paths ...string) {
		for _, path := range paths {
			if b, err := os.ReadFile(path); err == nil {
				t.Logf("%s: %s", path, b[max(0, len(b)-most):])
			}
		}
	}
	for _, p := range h.processes() {
		if p.kind != "daemon" && p.kind != "shim" {
			continue
		}
		_ = proc.Kill(p.Process, unix.SIGABRT) // the runtime prints all stacks
		_ = proc.Wait(t.Context(), p.Process)
		if p.kind == "shim" {
			last(filepath.Join(p.argv[1], "shim.log"), filepath.Join(p.argv[1], "vmm.log"), filepath.Join(p.argv[1], "console.log"))
		}
	}
	logs, _ := filepath.Glob(filepath.Join(h.state, "banger", "*.log"))
	last(logs...)
}

// apart is an installation with the shared one's files and a daemon and
// temporary directory of its own, nothing running but that daemon. Everything
// that is made once has been made.
func apart(t *testing.T) (h *host, before []string) {
	t.Helper()
	tmp := filepath.Join(shared.dir(), "tmp")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	shared.close()
	h = &host{bin: shared.bin, state: shared.state, env: append(slices.Clip(shared.env), "TMPDIR="+tmp)}
	began := time.Now()
	h.ok(t, "vm", "create", "--name", "first")
	h.creation = time.Since(began)
	h.ok(t, "vm", "delete", "first")
	t.Cleanup(h.close) // the next test's daemon has its own environment again
	return h, h.inventory(t)
}

package vmtest

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
	"banger/host/proc"
)

// Process is one of an installation's.
type Process struct {
	banger.Process
	Kind string // "daemon", "cli", "shim", "vmm", "jailed", "other"; jailed: beside the first process of a jail
	VM   string // the VM's id, of shim, vmm and jailed
	Argv []string
}

// Processes lists what runs of an installation: its programs, its VMMs, and
// whatever works in its directories or was told of them.
func (h *Host) Processes() (found []Process) {
	jails := map[string]string{} // of the jails' namespaces of processes: the VM's id
	var strangers []Process
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
		p := Process{Argv: strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")}
		exe = strings.TrimSuffix(exe, " (deleted)")
		switch exe {
		case filepath.Join(h.Bin, "bangerd"):
			p.Kind = "daemon"
		case filepath.Join(h.Bin, "banger"):
			p.Kind = "cli"
		case filepath.Join(h.Bin, "banger-shim"):
			p.Kind, p.VM = "shim", filepath.Base(p.Argv[min(1, len(p.Argv)-1)])
		case filepath.Join(h.Bin, "banger-jail"):
			p.Kind, p.VM = "other", filepath.Base(p.Argv[min(1, len(p.Argv)-1)]) // about to be the first, or the VMM
			if proc.First(pid) {
				p.Kind = "vmm"
				space, _ := os.Readlink(dir + "/ns/pid")
				jails[space] = p.VM
			}
		default:
			// A jailed Firecracker's directories are those of its jail.
			if i := slices.Index(p.Argv, "--id"); i >= 0 && i+1 < len(p.Argv) && strings.HasPrefix(filepath.Base(exe), "firecracker") && *Hypervisor == "firecracker" {
				p.Kind, p.VM = "vmm", strings.TrimPrefix(p.Argv[i+1], "banger-")
				break
			}
			if !within(h.Dir(), cwd) && !strings.Contains(string(cmdline), h.Dir()+"/") {
				if p.Process, err = proc.Read(pid); err == nil && len(room(pid)) > 0 {
					strangers = append(strangers, p)
				}
				continue
			}
			p.Kind = "other"
			if i := slices.Index(p.Argv, "-name"); i >= 0 && i+1 < len(p.Argv) && strings.HasPrefix(filepath.Base(exe), "qemu-system") {
				p.Kind, p.VM = "vmm", strings.TrimPrefix(p.Argv[i+1], "banger-")
			}
		}
		if p.Process, err = proc.Read(pid); err == nil {
			found = append(found, p)
		}
	}
	for _, p := range strangers {
		if p.Kind, p.VM = "jailed", jails[room(p.PID)]; p.VM != "" {
			found = append(found, p)
		}
	}
	return found
}

// room is the namespace that a process counts processes in, if that isn't ours.
func room(pid int) string {
	ours, _ := os.Readlink("/proc/self/ns/pid")
	space, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"))
	if space == ours {
		return ""
	}
	return space
}

// Dir is where all of an installation is.
func (h *Host) Dir() string { return filepath.Dir(h.Bin) }

func within(dir, path string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// Inventory lists what an installation has on the host, and what nobody else
// owns of the kinds it makes, one line each.
func (h *Host) Inventory(t *testing.T) (lines []string) {
	t.Helper()
	add := func(kind string, what ...any) {
		lines = append(lines, kind+" "+strings.TrimSpace(fmt.Sprintln(what...)))
	}
	for _, p := range h.Processes() {
		add("process", p.Kind, p.Argv)
	}
	for line := range textLines("/proc/net/unix") {
		if f := strings.Fields(line); len(f) == 8 && within(h.Dir(), f[7]) && f[3] == "00010000" { // listening
			add("socket", f[7])
		}
	}
	devices, _ := os.ReadDir("/sys/class/net")
	for _, d := range devices {
		add("network device", d.Name())
	}
	for line := range textLines("/proc/self/mountinfo") {
		if strings.Contains(line, h.Dir()) {
			add("mount", line)
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if back, _ := os.ReadFile(l); strings.Contains(string(back), h.Dir()) {
			add("loop", strings.TrimSpace(string(back)))
		}
	}
	nodes, _ := filepath.Glob("/sys/block/dm-*/dm/name")
	for _, n := range nodes {
		if name, _ := os.ReadFile(n); strings.HasPrefix(string(name), "banger-") {
			add("device", strings.TrimSpace(string(name)))
		}
	}
	for _, m := range h.memory() {
		add("memory", m)
	}
	for _, root := range []string{h.Dir(), "/sys/fs/cgroup"} {
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && (root == h.Dir() || strings.Contains(e.Name(), "banger") && h.ownsGroup(path)) {
				add("file", path, e.Type())
			}
			return nil // what vanished meanwhile isn't there
		})
	}
	slices.Sort(lines)
	return lines
}

// memory lists the memory files of this installation's guests, and nobody's, with
// the time each was made.
func (h *Host) memory() (files []string) {
	all, _ := filepath.Glob("/dev/shm/banger-*/banger-*.ram")
	for _, path := range all {
		if st, err := os.Stat(path); err == nil && h.ownsMemory(path) {
			files = append(files, path+" of "+st.ModTime().Format(time.TimeOnly))
		}
	}
	return files
}

// ownsGroup reports whether a control group is this installation's or nobody's, as
// ownsMemory does: one of another's VM is empty for a moment when that starts or ends.
func (h *Host) ownsGroup(path string) bool {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		procs, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return false
		}
		for _, pid := range strings.Fields(string(procs)) {
			cwd, err := os.Readlink(filepath.Join("/proc", pid, "cwd"))
			if err == nil {
				return within(h.Dir(), cwd)
			}
		}
		if time.Now().After(end) {
			return true
		}
	}
}

// ownsMemory reports whether a memory file is this installation's or nobody's: tests
// of other packages may run beside us. Theirs, too, is nobody's for a moment while
// a VMM starts or ends.
func (h *Host) ownsMemory(path string) bool {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		st, err := os.Stat(path)
		if err != nil || st.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) {
			return false
		}
		cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, c := range cmdlines {
			if b, _ := os.ReadFile(c); strings.Contains(string(b), path) {
				cwd, _ := os.Readlink(filepath.Join(filepath.Dir(c), "cwd"))
				return within(h.Dir(), cwd)
			}
		}
		if time.Now().After(end) {
			return true
		}
	}
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

// Same waits until the host has what it had before, line by line.
func (h *Host) Same(t *testing.T, before []string, bound time.Duration) {
	t.Helper()
	var diff string
	for end := time.Now().Add(Patience(bound)); ; time.Sleep(100 * time.Millisecond) {
		// A daemon is part of both, and starts when it is asked.
		h.Run(nil, "vm", "list")
		if diff = cmp.Diff(before, h.Inventory(t)); diff == "" {
			return
		}
		if time.Now().After(end) {
			t.Errorf("the host isn't as it was (- before, + now):\n%s", diff)
			return
		}
	}
}

// Autopsy logs what may tell why an installation doesn't get on, and ends its
// daemon and its shims doing so.
func (h *Host) Autopsy(t *testing.T) {
	const most = 60_000
	for _, p := range h.Processes() {
		t.Logf("%s %s, pid %d", p.Kind, p.VM, p.PID)
	}
	last := func(paths ...string) {
		for _, path := range paths {
			if b, err := os.ReadFile(path); err == nil {
				t.Logf("%s: %s", path, b[max(0, len(b)-most):])
			}
		}
	}
	for _, p := range h.Processes() {
		if p.Kind != "daemon" && p.Kind != "shim" {
			continue
		}
		_ = proc.Kill(p.Process, unix.SIGABRT) // the runtime prints all stacks
		_ = proc.Wait(t.Context(), p.Process)
		if p.Kind == "shim" {
			last(filepath.Join(p.Argv[1], "shim.log"), filepath.Join(p.Argv[1], "vmm.log"), filepath.Join(p.Argv[1], "console.log"))
		}
	}
	logs, _ := filepath.Glob(filepath.Join(h.State, "banger", "*.log"))
	last(logs...)
}

// Apart is an installation with the shared one's files and a daemon and
// temporary directory of its own, nothing running but that daemon. Everything
// that is made once has been made.
func Apart(t *testing.T) (h *Host, before []string) {
	t.Helper()
	tmp := filepath.Join(Shared.Dir(), "tmp")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	Shared.Close()
	h = Shared.With("TMPDIR=" + tmp)
	began := time.Now()
	h.OK(t, "vm", "create", "--name", "first")
	h.Creation = time.Since(began)
	h.OK(t, "vm", "delete", "first")
	t.Cleanup(h.Close) // the next test's daemon has its own environment again
	return h, h.Inventory(t)
}

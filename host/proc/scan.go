package proc

import (
	"bytes"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"banger"
)

// Sight is what was seen of a process. Its identity was read first, and again at the
// end, so that all of it is of the same process.
type Sight struct {
	banger.Process
	Exe  string   // path of its program
	Dir  string   // its working directory
	User int      // its user id; -1 where real and effective differ
	Argv []string // its arguments, beginning with its name
}

// Program is a kind of process that is started for VMs. It says how to tell such a
// process from all others.
type Program struct {
	Kind string // "vmm", "shim"
	// Likely reports whether a process with this program and this working directory
	// is worth a look.
	Likely func(exe, dir string) bool
	// VM returns the id of the VM that a process is for, "" when it isn't of this kind.
	// ours reports whether that VM's directory is in vms.
	VM func(s Sight, vms string) (id string, ours bool)
}

// Look looks at a living process.
func Look(pid int) (Sight, error) {
	p, err := Read(pid)
	if err != nil {
		return Sight{}, err
	}
	s := Sight{Process: p}
	dir := of(pid)
	if s.Exe, err = path(dir, "exe"); err != nil {
		return Sight{}, err
	}
	for before := ""; before != s.Exe; { // it may become another program meanwhile
		before = s.Exe
		if s.Dir, err = path(dir, "cwd"); err != nil {
			return Sight{}, err
		}
		if s.User, err = user(dir); err != nil {
			return Sight{}, err
		}
		if s.Argv, err = arguments(dir); err != nil {
			return Sight{}, err
		}
		if s.Exe, err = path(dir, "exe"); err != nil {
			return Sight{}, err
		}
	}
	if !Alive(p) {
		return Sight{}, gone(pid)
	}
	return s, nil
}

// First reports whether a process is the first of a namespace of processes that isn't ours
// (pid_namespaces(7)).
func First(pid int) bool {
	data, err := os.ReadFile(filepath.Join(of(pid), "status"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			list := strings.Fields(ids)
			return len(list) > 1 && list[len(list)-1] == "1"
		}
	}
	return false
}

// All looks at every process whose program and working directory are likely. So it also
// finds processes that have no record or socket.
func All(likely func(exe, dir string) bool) iter.Seq[Sight] {
	return func(yield func(Sight) bool) {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			exe, err := path(of(pid), "exe")
			if err != nil { // the kernel's own, another user's, or it has ended
				continue
			}
			dir, _ := path(of(pid), "cwd")
			if !likely(exe, dir) {
				continue
			}
			if s, err := Look(pid); err == nil && !yield(s) {
				return
			}
		}
	}
}

// Find returns the first likely process for which is returns true.
func Find(likely func(exe, dir string) bool, is func(Sight) bool) (banger.Process, bool) {
	for s := range All(likely) {
		if is(s) {
			return s.Process, true
		}
	}
	return banger.Process{}, false
}

// Works reports whether dir is the process's working directory, or was before it was
// removed.
func (s Sight) Works(dir string) bool {
	if s.Dir == dir || s.same("cwd", dir) {
		return true
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	return err == nil && s.Dir == filepath.Join(parent, filepath.Base(dir))
}

// Rooted reports whether dir is what the process sees as /.
func (s Sight) Rooted(dir string) bool { return s.same("root", dir) }

func (s Sight) same(link, dir string) bool {
	theirs, err := os.Stat(filepath.Join(of(s.PID), link))
	if err != nil {
		return false
	}
	ours, err := os.Stat(dir)
	return err == nil && os.SameFile(theirs, ours) && Alive(s.Process)
}

// HasOpen reports whether a process has the file at path open or mapped. It sees only
// processes that we may look at.
func HasOpen(path string) bool {
	entries, _ := os.ReadDir("/proc") // no /proc: no processes to see
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		maps, _ := os.ReadFile(filepath.Join(of(pid), "maps"))
		if strings.Contains(string(maps), " "+path+"\n") {
			return true
		}
		fds, _ := os.ReadDir(filepath.Join(of(pid), "fd"))
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join(of(pid), "fd", fd.Name())); err == nil && to == path {
				return true
			}
		}
	}
	return false
}

func of(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid)) }

// path reads one of a process's links, without the " (deleted)" that the kernel adds
// when the file was removed or replaced.
func path(dir, link string) (string, error) {
	to, err := os.Readlink(filepath.Join(dir, link))
	return strings.TrimSuffix(to, " (deleted)"), err
}

// user reads a process's user id (proc_pid_status(5)).
func user(dir string) (int, error) {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return -1, err
	}
	for line := range bytes.Lines(status) {
		if f := strings.Fields(string(line)); len(f) > 2 && f[0] == "Uid:" {
			if f[1] != f[2] {
				return -1, nil
			}
			return strconv.Atoi(f[1])
		}
	}
	return -1, fmt.Errorf("%s/status has no user", dir)
}

// execTimeout is how long a process may take to become another program. Meanwhile it
// has no arguments (load_elf_binary in the kernel's fs/binfmt_elf.c); 10 ms were seen.
const execTimeout = time.Second

// arguments returns a process's arguments. If it is becoming another program, it waits
// for the new ones.
func arguments(dir string) ([]string, error) {
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	for end := time.Now().Add(execTimeout); err == nil && len(line) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
		if _, err = os.Readlink(filepath.Join(dir, "exe")); err == nil { // a zombie has none, and no arguments either
			line, err = os.ReadFile(filepath.Join(dir, "cmdline"))
		}
	}
	return strings.Split(string(bytes.TrimSuffix(line, []byte{0})), "\x00"), err
}

package machine

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
	"banger/vmm/shim"
)

// Traits say how a hypervisor's processes are recognised. A PID alone is never enough.
type Traits struct {
	Name     string   // in errors: "QEMU"
	Programs []string // how the name of an executable begins
	// VM returns the id of the machine whose VMM has these arguments; "" if it isn't a VMM.
	VM func(argv []string) string
	// Jail returns the user id of a jailed VMM, and the directories of which one is its root.
	// Nil: no VMM is jailed.
	Jail func(id, dir string) (user int, roots []string)
	// Home returns the directory of the machine of a VMM that doesn't work there, as it can't see
	// it; "" if it is none. Nil: all work there.
	Home func(p proc.Sight) string
}

// Name is the name of a machine on the command line of its VMM.
func Name(id string) string { return prefix + id }

const prefix = "banger-"

// Option returns the id of the machine whose Name follows an option on a command line; "" if
// there is none.
func Option(argv []string, option string) string {
	if i := slices.Index(argv, option); i >= 0 && i+1 < len(argv) {
		if id, ok := strings.CutPrefix(argv[i+1], prefix); ok {
			return id
		}
	}
	return ""
}

// find returns the machine's living VMM. saved may be empty, or be another process by now.
func (s *Supervisor) find(ctx context.Context, m banger.Machine, saved banger.Process) (banger.Process, bool) {
	t := s.vmm.Traits()
	is := func(p proc.Sight) bool {
		if t.VM(p.Argv) != m.ID {
			return false
		}
		vmm, here := t.place(p, m.ID, m.Dir)
		return vmm && (here || p.User != os.Getuid()) // only this VMM has the jail's user id
	}
	ask, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	if pid, err := s.vmm.Listener(ask, m); err == nil {
		if p, err := proc.Look(pid); err == nil && is(p) {
			return p.Process, true
		}
	}
	if p, err := proc.Look(saved.PID); err == nil && p.Process == saved && is(p) {
		return saved, true
	}
	return proc.Find(t.likely(func(name string) bool { return name == filepath.Base(m.Dir) }), is)
}

// Program says how VMMs are recognised.
func (s *Supervisor) Program() proc.Program {
	t := s.vmm.Traits()
	return proc.Program{Kind: "vmm", Likely: t.likely(banger.IsID), VM: func(p proc.Sight, vms string) (id string, ours bool) {
		id = t.VM(p.Argv)
		if !banger.IsID(id) {
			return "", false
		}
		if vmm, here := t.place(p, id, filepath.Join(vms, id)); vmm {
			return id, here
		}
		return "", false
	}}
}

// place reports whether a process that says it is the VMM of a machine is one, and
// whether it is that of the machine whose directory is dir.
func (t Traits) place(p proc.Sight, id, dir string) (vmm, here bool) {
	user, roots := -2, []string(nil) // no process has this user id
	if t.Jail != nil && os.Getuid() == 0 {
		user, roots = t.Jail(id, dir)
	}
	if p.User != os.Getuid() && p.User != user {
		return false, false
	}
	here = p.Works(dir) || slices.ContainsFunc(roots, p.Rooted) || t.Home != nil && t.Home(p) == dir
	return t.named(p.Exe) || here && launched(p, shim.Launched(dir)), here
}

// likely is proc.Program's: a VMM whose program has a name of its own works in a
// directory with a machine's name.
func (t Traits) likely(machine func(name string) bool) func(exe, dir string) bool {
	return func(exe, dir string) bool { return t.named(exe) || machine(filepath.Base(dir)) }
}

// named reports whether a program is the hypervisor's by its name.
func (t Traits) named(exe string) bool {
	name := filepath.Base(exe)
	return slices.ContainsFunc(t.Programs, func(p string) bool { return strings.HasPrefix(name, p) })
}

// launched reports whether a process has the arguments that the machine's VMM was given. The
// launched program may be a wrapper: the process then has another name, and other arguments
// before ours.
func launched(p proc.Sight, argv []string) bool {
	n := len(p.Argv) - len(argv) + 1
	return len(argv) > 1 && n > 0 && slices.Equal(p.Argv[n:], argv[1:])
}

// hungUp reports whether a connection broke, which is the first sign that a VMM ends: its
// process still exists for a moment.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) ||
		errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNREFUSED)
}

func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

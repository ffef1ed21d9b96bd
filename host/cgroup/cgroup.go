// Package cgroup bounds the memory that a process has together with all that it starts:
// by a control group (cgroups(7)) of its own, where the host lets us make one. It
// owns the ways to one, by systemd or in the kernel's own file system of either
// version, and what is left of those that have ended.
//
// It knows nothing of what the processes are for. A group carries the name of who it
// is for and what we call ours; nothing else is touched.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names of groups: prefix, whose it is, suffix. That is a unit's name for systemd.
const (
	prefix = "banger-"
	suffix = ".scope"
)

// ErrNone says, wrapped with the reason, that the host doesn't let us make groups.
var ErrNone = errors.New("memory can't be bounded here")

// Way is how this host gives groups. The zero Way gives none.
type Way struct {
	socket string // systemd's, whose manager makes them; empty: we do
	parent Group  // or else where we make them
}

// Find returns the way of this host for this process, or an ErrNone with the reason. It
// makes no group, but may let groups below this process's have the memory controller.
func Find() (Way, error) {
	own, err := Of(os.Getpid())
	if err != nil {
		return Way{}, fmt.Errorf("%w: %w", ErrNone, err)
	}
	socket, why := managerSocket(own)
	if socket != "" {
		return Way{socket: socket}, nil
	}
	if err := own.mayHold(); err != nil {
		if why != nil {
			err = why // a host with systemd leaves groups to it
		}
		return Way{}, fmt.Errorf("%w: %w", ErrNone, err)
	}
	return Way{parent: own}, nil
}

// Admit moves this process into the group that beside, one of ours, is in; else into a
// new one, see Enter.
func Admit(ctx context.Context, id string, bound int64, note string, beside int) (Group, error) {
	way, err := Find()
	if err != nil {
		return Group{}, err
	}
	if beside != 0 {
		// A jailed VMM has a group of its own, and the last one may have ended.
		if g, err := way.Join(ctx, id, beside); err == nil {
			return g, nil
		}
	}
	return way.Enter(ctx, id, bound, note)
}

// String says who makes the groups.
func (w Way) String() string {
	switch w {
	case Way{}:
		return "none"
	case Way{socket: systemSocket}:
		return "scopes of systemd's"
	}
	if w.socket != "" {
		return "scopes of systemd's manager of this user"
	}
	return "groups in " + w.parent.Dir
}

// Enter moves this process into a new group, for as long as that or anything it starts
// lives. Where it is, the file note says before it is made, if Remove has to take it
// away again.
func (w Way) Enter(ctx context.Context, id string, bound int64, note string) (Group, error) {
	name := prefix + id + suffix
	if w.socket != "" {
		if err := startScope(ctx, w.socket, name, bound); err != nil {
			return Group{}, err
		}
		g, err := Of(os.Getpid())
		if err != nil {
			return Group{}, err
		}
		// A manager of a user may not have the controller.
		if has, err := g.Bound(); err != nil || has > bound {
			return Group{}, fmt.Errorf("%w: systemd made %s without a bound (%v)", ErrNone, name, err)
		}
		return g, nil
	}
	g := Group{Dir: filepath.Join(w.parent.Dir, name), v1: w.parent.v1}
	if err := os.WriteFile(note, []byte(g.Dir), 0o600); err != nil {
		return Group{}, err
	}
	for end := time.Now().Add(removeTimeout); ; {
		err := g.make(bound)
		if err == nil {
			return g, nil
		}
		// Whoever looks for leftovers may take an empty one away.
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(end) {
			return Group{}, errors.Join(err, Remove(ctx, note))
		}
	}
}

// Join moves this process into the group that another one of ours is in.
func (w Way) Join(ctx context.Context, id string, pid int) (Group, error) {
	g, err := Of(pid)
	if err != nil {
		return Group{}, err
	}
	name := prefix + id + suffix
	if filepath.Base(g.Dir) != name {
		return Group{}, fmt.Errorf("%w: process %d isn't in a group of its own", ErrNone, pid)
	}
	if w.socket != "" {
		return g, joinScope(ctx, w.socket, name)
	}
	return g, g.take()
}

// Group is a control group with the memory controller.
type Group struct {
	Dir string
	v1  bool
}

// file is one of the group's, by its name of either version.
func (g Group) file(v1, v2 string) string {
	if g.v1 {
		return filepath.Join(g.Dir, v1)
	}
	return filepath.Join(g.Dir, v2)
}

func (g Group) make(bound int64) error {
	if !g.v1 {
		if err := g.parent().control(); err != nil {
			return err
		}
	}
	if err := os.Mkdir(g.Dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.WriteFile(g.file("memory.limit_in_bytes", "memory.max"), strconv.AppendInt(nil, bound, 10), 0); err != nil {
		return err
	}
	return g.take()
}

func (g Group) parent() Group { return Group{Dir: filepath.Dir(g.Dir), v1: g.v1} }

// take moves this process into the group.
func (g Group) take() error {
	return os.WriteFile(filepath.Join(g.Dir, "cgroup.procs"), []byte("0"), 0)
}

// mayHold reports why no group can be made in this one.
func (g Group) mayHold() error {
	if err := unix.Access(g.Dir, unix.W_OK); err != nil {
		return &fs.PathError{Op: "write", Path: g.Dir, Err: err}
	}
	if g.v1 {
		return nil
	}
	controllers, err := os.ReadFile(filepath.Join(g.Dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(string(controllers)), "memory") {
		return fmt.Errorf("there is no memory controller in %s", g.Dir)
	}
	return g.control()
}

// control gives groups in this one, of version 2, the memory controller. The kernel
// refuses that where the group has processes of its own and isn't the root.
func (g Group) control() error {
	path := filepath.Join(g.Dir, "cgroup.subtree_control")
	has, err := os.ReadFile(path)
	if err != nil || slices.Contains(strings.Fields(string(has)), "memory") {
		return err
	}
	return os.WriteFile(path, []byte("+memory"), 0)
}

// Usage is what the group's processes have, in bytes, page cache and all.
func (g Group) Usage() (int64, error) {
	return readNumber(g.file("memory.usage_in_bytes", "memory.current"))
}

// Bound is the most that they may have.
func (g Group) Bound() (int64, error) {
	return readNumber(g.file("memory.limit_in_bytes", "memory.max"))
}

func readNumber(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// Kills is how many processes of the group the kernel has killed for want of memory.
func (g Group) Kills() int {
	b, err := os.ReadFile(g.file("memory.oom_control", "memory.events"))
	if err != nil {
		return 0 // the zero Group
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, _ := strconv.Atoi(strings.TrimSpace(n)) // the kernel's own
			return kills
		}
	}
	return 0
}

const removeTimeout = 2 * time.Second

// Remove takes away the group that the file note says, if there is one, and the file.
// The group's processes have ended.
func Remove(ctx context.Context, note string) error {
	dir, err := os.ReadFile(note)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(dir) > 0 { // its writer may have died meanwhile
		err = remove(ctx, string(dir))
	}
	if err != nil {
		return fmt.Errorf("remove the control group: %w", err)
	}
	return os.Remove(note)
}

func remove(ctx context.Context, dir string) error {
	if base := filepath.Base(dir); !strings.HasPrefix(base, prefix) || !strings.HasSuffix(base, suffix) {
		return fmt.Errorf("%s is no group of ours", dir)
	}
	for end := time.Now().Add(removeTimeout); ; time.Sleep(time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		// The last process leaves it a moment after its end was seen.
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) || ctx.Err() != nil {
			return &fs.PathError{Op: "remove", Path: dir, Err: err}
		}
	}
}

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger"
)

// Of returns the group with the memory controller that a process is in.
func Of(pid int) (Group, error) {
	at, err := findMount()
	if err != nil {
		return Group{}, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return Group{}, err
	}
	path, ok := at.pathIn(string(b))
	if !ok {
		return Group{}, fmt.Errorf("the group of process %d isn't below %s", pid, at.dir)
	}
	return Group{Dir: filepath.Join(at.dir, path), v1: at.v1}, nil
}

// mount is where a hierarchy with the memory controller is seen.
type mount struct {
	dir  string
	root string // the group that is seen there
	v1   bool
}

// findMount looks for the hierarchy that has the memory controller: version 1, where
// that is mounted, or else the one of version 2 (proc_pid_mountinfo(5)).
func findMount() (mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return mount{}, err
	}
	at, ok := parseMounts(string(b))
	if !ok {
		return mount{}, errors.New("no control groups are mounted")
	}
	return at, nil
}

func parseMounts(info string) (at mount, ok bool) {
	for line := range strings.Lines(info) {
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if len(f) < 6 || dash < 0 || dash+3 >= len(f) {
			continue
		}
		switch m := (mount{dir: f[4], root: f[3]}); {
		case f[dash+1] == "cgroup" && slices.Contains(strings.Split(f[dash+3], ","), "memory"):
			m.v1 = true
			return m, true
		case f[dash+1] == "cgroup2":
			at, ok = m, true
		}
	}
	return at, ok
}

// pathIn returns where in the mount /proc/PID/cgroup says that a process is.
func (m mount) pathIn(groups string) (string, bool) {
	for line := range strings.Lines(groups) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		if m.v1 && slices.Contains(strings.Split(f[1], ","), "memory") || !m.v1 && f[0] == "0" {
			if m.root == "/" {
				return f[2], true
			}
			rest, below := strings.CutPrefix(f[2], m.root)
			return rest, below && (rest == "" || rest[0] == '/')
		}
	}
	return "", false
}

// Leftovers finds groups of ours whose processes have all ended, as the death of
// whoever would have removed one may leave it. It is a banger.KernelObjects.
type Leftovers struct{}

var _ banger.KernelObjects = Leftovers{}

// Objects returns them.
func (Leftovers) Objects(context.Context) (found []banger.Found, err error) {
	err = each(func(dir, id string) error {
		found = append(found, banger.Found{Kind: "cgroup", Name: dir, VM: id})
		return nil
	})
	return found, err
}

// RemoveObjects removes those of a VM.
func (Leftovers) RemoveObjects(ctx context.Context, id string) error {
	return each(func(dir, whose string) error {
		if whose != id {
			return nil
		}
		return remove(ctx, dir)
	})
}

// each calls do for every group of ours without a process.
func each(do func(dir, id string) error) error {
	at, err := findMount()
	if err != nil {
		return nil // no groups at all
	}
	return filepath.WalkDir(at.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // what vanished meanwhile isn't there
		}
		id, ours := strings.CutPrefix(e.Name(), prefix)
		id, whole := strings.CutSuffix(id, suffix)
		if !ours || !whole || !banger.IsID(id) {
			return nil
		}
		if procs, err := os.ReadFile(filepath.Join(path, "cgroup.procs")); err != nil || len(procs) > 0 {
			return fs.SkipDir
		}
		if err := do(path, id); err != nil {
			return err
		}
		return fs.SkipDir
	})
}

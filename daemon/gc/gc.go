// Package gc finds what lies on the host in banger's places and under its names,
// says whose it is, and removes what no VM owns. It owns the rules of that: what
// counts as ours, and what proves that nobody uses it.
// Of what can be made or fetched again it prunes what no VM needs.
//
// It refuses to know why something was left behind: the engine undoes what it
// began, and this is for what even it can't know of. What it can't prove to be
// of this state directory it never touches.
package gc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger"
)

// Collector looks at one state directory and what belongs to it. Its fields are
// set before use and never change.
type Collector struct {
	Dir    string // state directory; VMs live in vms/<id> below it
	Data   string // where images and kernels are; only its size is looked at
	Cache  string // where downloads are; as Data
	RAMDir string // where guest memory goes
	Proc   string // where processes are shown; empty: /proc
	VMs    func(context.Context) ([]banger.VM, error)
	// Identify and End are told of processes by the kernel's own identity of them.
	Identify func(pid int) (banger.Process, error)
	End      func(p banger.Process, signal string) error
	Now      func() time.Time
	Kernel   []banger.KernelObjects // drivers that have objects in the host's kernel
	Spare    Spare
}

// A memory file younger than this may be one that its VMM is about to open.
const young = time.Minute

// thing is something found, and how it is removed.
type thing struct {
	banger.Found
	remove func() error
	others banger.Claim // whose it is when no VM of ours has it; "": orphaned
}

// Collect is that of banger.System.
func (c *Collector) Collect(ctx context.Context, opt banger.CollectOptions) ([]banger.Found, error) {
	procs := c.processes()
	things := c.programs(procs)
	for _, look := range []func() ([]thing, error){
		func() ([]thing, error) { return c.directories(opt.Disks) },
		func() ([]thing, error) { return c.memory(procs) },
		func() ([]thing, error) { return c.objects(ctx) },
	} {
		more, err := look()
		if err != nil {
			return nil, err
		}
		things = append(things, more...)
	}
	// Asked after the look: what is there now and has no VM by now belongs to none,
	// for a VM is recorded before anything of it is made.
	vms, err := c.VMs(ctx)
	if err != nil {
		return nil, err
	}
	owned := map[string]bool{}
	for _, vm := range vms {
		owned[vm.ID] = true
	}
	found := make([]banger.Found, 0, len(things))
	for _, t := range things {
		if t.Claim == "" && owned[t.VM] {
			t.Claim = banger.Owned
		}
		if t.Claim == "" {
			t.Claim = t.others
		}
		if t.Claim == "" {
			t.Claim = banger.Orphaned
			if t.remove != nil && !opt.DryRun {
				err := t.remove()
				if t.Removed = err == nil; err != nil {
					t.Detail = err.Error()
				}
			}
		}
		if t.Claim == banger.Owned {
			t.Detail = ""
		}
		found = append(found, t.Found)
	}
	return found, nil
}

// objects asks the drivers what the host's kernel has of theirs.
func (c *Collector) objects(ctx context.Context) ([]thing, error) {
	var list []thing
	for _, k := range c.Kernel {
		found, err := k.Objects(ctx)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			list = append(list, thing{Found: f, remove: func() error { return k.RemoveObjects(ctx, f.VM) }})
		}
	}
	return list, nil
}

// directories looks at the VMs' directories.
func (c *Collector) directories(disks bool) ([]thing, error) {
	dir := filepath.Join(c.Dir, "vms")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []thing
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		t := thing{Found: banger.Found{Kind: "directory", Name: path, VM: e.Name()}}
		switch {
		case !isID(e.Name()) || !e.IsDir():
			t.Claim, t.VM, t.Detail = banger.Foreign, "", "not a VM's directory"
		case !disks && holdsDisk(path):
			t.Detail = "kept: it holds a disk; --disks removes it too"
		default:
			t.remove = func() error { return os.RemoveAll(path) }
		}
		list = append(list, t)
	}
	return list, err
}

// holdsDisk reports whether a directory has something a user may miss: after
// the records were lost, the disks are all there is.
func holdsDisk(dir string) bool {
	files, err := os.ReadDir(dir)
	if err != nil {
		return true
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "disk") {
			return true
		}
	}
	return false
}

// memory looks at files of guest memory. Other daemons of the same user may
// keep theirs in the same place, so one is orphaned only when nobody has it open.
func (c *Collector) memory(procs []process) ([]thing, error) {
	entries, err := os.ReadDir(c.RAMDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []thing
	for _, e := range entries {
		id, ok := strings.CutPrefix(e.Name(), "banger-")
		id, suffixed := strings.CutSuffix(id, ".ram")
		if !ok || !suffixed {
			continue
		}
		path := filepath.Join(c.RAMDir, e.Name())
		t := thing{Found: banger.Found{Kind: "memory", Name: path, VM: id}}
		info, err := e.Info()
		if err != nil {
			continue // gone meanwhile
		}
		st, _ := info.Sys().(*syscall.Stat_t)
		switch {
		case !isID(id) || !info.Mode().IsRegular() || st == nil || int(st.Uid) != os.Getuid():
			t.Claim, t.Detail = banger.Foreign, "not a file of ours"
		case c.Now().Sub(info.ModTime()) < young:
			t.others, t.Detail = banger.Foreign, "kept: it may be about to be used"
		case usedBy(procs, path):
			t.others, t.Detail = banger.Foreign, "kept: a process that isn't of this state directory uses it"
		default:
			t.remove = func() error { return os.Remove(path) }
		}
		list = append(list, t)
	}
	return list, err
}

// process is one of our own user.
type process struct {
	pid  int
	exe  string // base name of its program
	argv []string
	cwd  string
	dir  string // in /proc
}

func (c *Collector) processes() []process {
	root := c.Proc
	if root == "" {
		root = "/proc"
	}
	entries, _ := os.ReadDir(root) // no /proc: no processes to see
	var list []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p := process{pid: pid, dir: filepath.Join(root, e.Name())}
		exe, err := os.Readlink(filepath.Join(p.dir, "exe"))
		info, serr := os.Stat(p.dir)
		if err != nil || serr != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Getuid() {
			continue
		}
		p.exe = filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
		p.cwd, _ = os.Readlink(filepath.Join(p.dir, "cwd"))
		p.cwd = strings.TrimSuffix(p.cwd, " (deleted)")
		line, _ := os.ReadFile(filepath.Join(p.dir, "cmdline"))
		p.argv = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		list = append(list, p)
	}
	return list
}

// programs looks at VMMs and shims. Which VM one is for it says itself; that it
// is of this state directory, its directory says.
func (c *Collector) programs(procs []process) []thing {
	var list []thing
	for _, p := range procs {
		kind, id, dir := p.role()
		if kind == "" {
			continue
		}
		t := thing{Found: banger.Found{Kind: kind, Name: strconv.Itoa(p.pid), VM: id}}
		who, err := c.Identify(p.pid)
		switch {
		case err != nil:
			continue // it has ended
		case !isID(id) || !c.mine(dir, id):
			t.Claim, t.Detail = banger.Foreign, "of another state directory"
		default:
			t.remove = func() error { return c.End(who, "KILL") }
		}
		list = append(list, t)
	}
	return list
}

// mine reports whether dir is a VM's in this state directory, by the path it was
// given or, as a process's working directory is shown, by the real one.
func (c *Collector) mine(dir, id string) bool {
	if dir == filepath.Join(c.Dir, "vms", id) {
		return true
	}
	real, err := filepath.EvalSymlinks(c.Dir)
	return err == nil && dir == filepath.Join(real, "vms", id)
}

// role says what a process is of ours, for which VM, and in which directory.
func (p process) role() (kind, vm, dir string) {
	switch {
	case p.exe == "banger-shim" && len(p.argv) > 1:
		return "shim", filepath.Base(p.argv[1]), filepath.Clean(p.argv[1])
	case strings.HasPrefix(p.exe, "qemu-"):
		for i, arg := range p.argv[:len(p.argv)-1] {
			if id, ok := strings.CutPrefix(p.argv[i+1], "banger-"); ok && arg == "-name" {
				return "vmm", id, p.cwd
			}
		}
	}
	return "", "", ""
}

// usedBy reports whether a process has the file open or mapped.
func usedBy(procs []process, path string) bool {
	for _, p := range procs {
		maps, _ := os.ReadFile(filepath.Join(p.dir, "maps"))
		if strings.Contains(string(maps), " "+path+"\n") {
			return true
		}
		fds, _ := os.ReadDir(filepath.Join(p.dir, "fd"))
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join(p.dir, "fd", fd.Name())); err == nil && to == path {
				return true
			}
		}
	}
	return false
}

// isID reports whether a name is a VM's id: 12 hex digits.
func isID(s string) bool { return len(s) == 12 && strings.Trim(s, "0123456789abcdef") == "" }

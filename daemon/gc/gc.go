// Package gc finds files and processes on the host in banger's directories or under its
// names, says whose they are, and removes those that no VM owns. It also prunes what no VM
// needs and can be made or fetched again. It owns the rules: what counts as ours, and what
// proves that nobody uses it.
//
// The engine undoes what it began; gc is for what the engine can't know of. It never
// touches anything that it can't prove to belong to this state directory.
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
	"banger/host/proc"
)

// Collector collects for one state directory. Its fields are set before use and never
// change.
type Collector struct {
	Dir   string // state directory; VMs live in vms/<id> below it
	Data  string // where images and kernels are; only its size is looked at
	Cache string // where downloads are; only its size is looked at

	RAMDirs []string // where guest memory is
	VMs     func(context.Context) ([]banger.VM, error)
	Now     func() time.Time

	Programs []proc.Program         // what drivers start for VMs
	Kernel   []banger.KernelObjects // drivers that have objects in the host's kernel
	Spare    Spare
}

// A memory file younger than this may be one that its VMM is about to open.
const young = time.Minute

// thing is something found, and how it is removed.
type thing struct {
	banger.Found
	remove func() error
	others banger.Claim // its claim if no VM of ours has it; "": orphaned
}

// Collect implements banger.SystemService.
func (c *Collector) Collect(ctx context.Context, opt banger.CollectOptions) ([]banger.Found, error) {
	things := c.programs()
	for _, look := range []func() ([]thing, error){
		func() ([]thing, error) { return c.directories(opt.Disks) },
		c.memory,
		func() ([]thing, error) { return c.objects(ctx) },
	} {
		more, err := look()
		if err != nil {
			return nil, err
		}
		things = append(things, more...)
	}
	// Read the VMs after looking. A VM is recorded before anything of it is made: so what was
	// seen and has no VM now belongs to none.
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
		case !banger.IsID(e.Name()) || !e.IsDir():
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

// holdsDisk reports whether a directory has a disk. A user may need it: if the records were
// lost, disks are all that is left.
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
func (c *Collector) memory() (list []thing, err error) {
	for _, dir := range c.RAMDirs {
		more, err := c.memoryIn(dir)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

func (c *Collector) memoryIn(dir string) ([]thing, error) {
	entries, err := os.ReadDir(dir)
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
		path := filepath.Join(dir, e.Name())
		t := thing{Found: banger.Found{Kind: "memory", Name: path, VM: id}}
		info, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		st, _ := info.Sys().(*syscall.Stat_t)
		switch {
		case !banger.IsID(id) || !info.Mode().IsRegular() || st == nil || int(st.Uid) != os.Getuid():
			t.Claim, t.Detail = banger.Foreign, "not a file of ours"
		case c.Now().Sub(info.ModTime()) < young:
			t.others, t.Detail = banger.Foreign, "kept: it may be about to be used"
		case proc.HasOpen(path):
			t.others, t.Detail = banger.Foreign, "kept: a process that isn't of this state directory uses it"
		default:
			t.remove = func() error { return os.Remove(path) }
		}
		list = append(list, t)
	}
	return list, err
}

// programs looks at VMMs and shims. A process's arguments say which VM it is for, and its
// working directory whether it is of this state directory.
func (c *Collector) programs() []thing {
	var list []thing
	vms := filepath.Join(c.Dir, "vms")
	for _, program := range c.Programs {
		for s := range proc.All(program.Likely) {
			id, ours := program.VM(s, vms)
			if id == "" {
				continue
			}
			t := thing{Found: banger.Found{Kind: program.Kind, Name: strconv.Itoa(s.PID), VM: id}}
			if banger.IsID(id) && ours {
				t.remove = func() error { return proc.Kill(s.Process, syscall.SIGKILL) }
			} else {
				t.Claim, t.Detail = banger.Foreign, "of another state directory"
			}
			list = append(list, t)
		}
	}
	return list
}

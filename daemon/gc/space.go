package gc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"banger"
)

// kinds are the kinds of files, by the first element of their path in our directories.
var kinds = map[string]string{
	"images": "image", "kernels": "kernel", "disks": "disk base", "templates": "template", "downloads": "download", "packages": "download", "ram": "memory",
}

// Space implements banger.SystemService. It counts the blocks that files take (stat(2),
// st_blocks); a file with several names counts once. Blocks that a filesystem shares
// between files, by reflinks, count for each file.
func (c *Collector) Space(ctx context.Context) ([]banger.Space, error) {
	vms, err := c.VMs(ctx)
	if err != nil {
		return nil, err
	}
	names, used := map[string]string{}, map[string]bool{}
	for _, vm := range vms {
		names[vm.ID] = vm.Spec.Name
		used["image/"+vm.ImageID], used["kernel/"+vm.KernelID] = true, true
	}
	s := &scale{seen: map[[2]uint64]bool{}, by: map[string]int{}}
	roots := []string{c.Dir, c.Data, c.Cache}
	slices.Sort(roots)
	counted := "\x00"
	for _, root := range roots {
		if root == "" || strings.HasPrefix(root+"/", counted+"/") {
			continue // it is, or is in, a directory that was counted
		}
		counted = root
		if err := s.place(root, names); err != nil {
			return nil, err
		}
	}
	var files []string
	for _, dir := range c.RAMDirs {
		more, _ := filepath.Glob(filepath.Join(dir, "banger-*.ram")) // the pattern is well-formed
		files = append(files, more...)
	}
	for _, f := range files {
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "banger-"), ".ram")
		if names[id] != "" { // the rest belongs to other daemons
			if err := s.file(f, "memory", filepath.Base(f), names[id]); err != nil {
				return nil, err
			}
		}
	}
	for i := range s.list {
		sp := &s.list[i]
		id, _, _ := strings.Cut(sp.Name, ".")
		if sp.Kind == "download" {
			sp.Unused = true
		}
		if sp.Kind == "image" || sp.Kind == "kernel" {
			sp.Unused = !used[sp.Kind+"/"+id] && banger.IsImageID(id)
		}
	}
	return s.list, nil
}

// scale adds up what files take.
type scale struct {
	seen map[[2]uint64]bool // device and inode of files with several names
	list []banger.Space
	by   map[string]int // of list, by kind, name and VM
}

// place looks at everything below one of our directories.
func (s *scale) place(root string, names map[string]string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile, or never made
		}
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root, path) // it is below root
		kind, name, vm := sort(strings.Split(rel, "/"))
		if vm != "" && names[vm] != "" {
			vm = names[vm]
		}
		return s.file(path, kind, name, vm)
	})
}

// sort says what a file is, by its path.
func sort(parts []string) (kind, name, vm string) {
	first, base := parts[0], parts[len(parts)-1]
	switch {
	case first == "vms" && len(parts) > 2 && strings.HasPrefix(parts[2], "disk"):
		return "disk", parts[1], parts[1]
	case first == "vms" && len(parts) > 2 && strings.Contains(base, ".log"):
		return "log", parts[1], parts[1]
	case first == "vms" && len(parts) > 2:
		return "other", parts[1], parts[1]
	case kinds[first] != "" && len(parts) > 1:
		return kinds[first], parts[1], ""
	case strings.Contains(base, ".log"):
		return "log", "daemon", ""
	case strings.HasPrefix(base, "banger.db"):
		return "records", "banger.db", ""
	}
	return "other", first, ""
}

func (s *scale) file(path, kind, name, vm string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if key := [2]uint64{st.Dev, st.Ino}; st.Nlink > 1 {
		if s.seen[key] {
			return nil
		}
		s.seen[key] = true
	}
	key := kind + "\x00" + name + "\x00" + vm
	i, ok := s.by[key]
	if !ok {
		i = len(s.list)
		s.by[key] = i
		s.list = append(s.list, banger.Space{Kind: kind, Name: name, VM: vm})
	}
	s.list[i].Bytes += st.Blocks * 512
	return nil
}

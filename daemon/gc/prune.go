package gc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"banger"
	"banger/host/hostfs"
)

// Spare is what a Collector prunes. The services refuse to delete what a VM needs.
type Spare struct {
	Catalog   Catalog
	Templates banger.TemplateService // nil: there are none
	Downloads []string               // directories; whoever uses files in one has a shared lock on it (flock(2))
	// The default image and kernel, which stay without All.
	Image, Kernel string // names
	// Alone says that no other daemon keeps kernels in Data, so one without a record is unused.
	Alone bool
}

// Catalog is what pruning needs of the daemon's images and kernels.
type Catalog interface {
	Images(ctx context.Context) ([]banger.Image, error)
	Image(ctx context.Context, ref string) (banger.Image, error)
	DeleteImage(ctx context.Context, ref string) error
	Kernels(ctx context.Context) ([]banger.Kernel, error)
	DeleteKernel(ctx context.Context, ref string) error
}

// candidate is something to be removed.
type candidate struct {
	banger.Pruned
	remove func() error
}

// Prune implements banger.SystemService. Imported images stay: only their user could make
// them again.
func (c *Collector) Prune(ctx context.Context, opt banger.PruneOptions) ([]banger.Pruned, error) {
	space, err := c.Space(ctx)
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for _, s := range space {
		id, _, _ := strings.Cut(s.Name, ".")
		sizes[s.Kind+"/"+id] += s.Bytes
	}
	vms, err := c.VMs(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, vm := range vms {
		used["image/"+vm.ImageID], used["kernel/"+vm.KernelID] = true, true
	}
	images, err := c.images(ctx, opt.All)
	if err != nil {
		return nil, err
	}
	kernels, err := c.kernels(ctx, opt.All)
	if err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(append(images, kernels...), func(x candidate) bool { return used[x.Kind+"/"+x.ID] })
	frozen, err := c.templates(ctx, opt.All, list)
	if err != nil {
		return nil, err
	}
	pruned := []banger.Pruned{}
	for _, x := range append(frozen, list...) {
		key := x.Kind + "/" + x.ID
		if x.Bytes == 0 {
			x.Bytes = sizes[key]
			delete(sizes, key) // an image with two names takes its space once
		}
		if !opt.DryRun {
			err := x.remove()
			if x.Removed = err == nil; err != nil {
				x.Detail = err.Error()
			}
		}
		pruned = append(pruned, x.Pruned)
	}
	for _, dir := range c.Spare.Downloads {
		p, err := downloads(dir, opt.DryRun)
		if err != nil {
			return nil, err
		}
		if p.Bytes > 0 {
			pruned = append(pruned, p)
		}
	}
	return pruned, nil
}

// templates returns all templates, or those of the images and kernels that are removed.
func (c *Collector) templates(ctx context.Context, all bool, going []candidate) ([]candidate, error) {
	if c.Spare.Templates == nil {
		return nil, nil
	}
	found, err := c.Spare.Templates.Templates(ctx)
	var list []candidate
	for _, t := range found {
		if !all && !slices.ContainsFunc(going, func(x candidate) bool { return x.ID == t.Kernel || x.ID == t.ImageID }) {
			continue
		}
		name := "kernel " + t.Kernel
		if t.Image != "" {
			name = "image " + t.Image
		}
		list = append(list, candidate{banger.Pruned{Kind: "template", ID: t.ID, Name: name, Bytes: t.Bytes},
			func() error { return c.Spare.Templates.DeleteTemplate(ctx, t.ID) }})
	}
	return list, err
}

func (c *Collector) images(ctx context.Context, all bool) ([]candidate, error) {
	names, err := c.Spare.Catalog.Images(ctx)
	if err != nil {
		return nil, err
	}
	var list []candidate
	for _, i := range names {
		if i.Name == c.Spare.Image && !all {
			continue
		}
		img, err := c.Spare.Catalog.Image(ctx, i.Name)
		if err != nil || img.Lock == nil {
			continue // gone meanwhile, or imported
		}
		list = append(list, candidate{banger.Pruned{Kind: "image", ID: img.ID, Name: img.Name},
			func() error { return c.Spare.Catalog.DeleteImage(ctx, img.Name) }})
	}
	return list, nil
}

func (c *Collector) kernels(ctx context.Context, all bool) ([]candidate, error) {
	recorded, err := c.Spare.Catalog.Kernels(ctx)
	if err != nil {
		return nil, err
	}
	current := ""
	for _, k := range recorded { // oldest first
		if k.Name == c.Spare.Kernel {
			current = k.ID
		}
	}
	var list []candidate
	add := func(id, name string) {
		if id != current || all {
			list = append(list, candidate{banger.Pruned{Kind: "kernel", ID: id, Name: name},
				func() error { return c.Spare.Catalog.DeleteKernel(ctx, id) }})
		}
	}
	for _, k := range recorded {
		if !k.Imported { // it can't be had again
			add(k.ID, k.Name+" "+k.Version)
		}
	}
	if !c.Spare.Alone {
		return list, nil
	}
	dirs, err := os.ReadDir(filepath.Join(c.Data, "kernels"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, d := range dirs {
		if banger.IsID(d.Name()) && !slices.ContainsFunc(recorded, func(k banger.Kernel) bool { return k.ID == d.Name() }) {
			add(d.Name(), "without a record")
		}
	}
	return list, err
}

var downloadName = regexp.MustCompile(`^[0-9a-f]{64}(\.part)?$`)

// downloads removes what was fetched into a directory, unless somebody uses it.
func downloads(dir string, dryRun bool) (banger.Pruned, error) {
	p := banger.Pruned{Kind: "download", ID: filepath.Base(dir), Name: dir}
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	defer func() { _ = d.Close() }()
	if err := hostfs.TryLock(d); err != nil {
		p.Detail = "kept: a fetch or build under way may use them"
		dryRun = true
	}
	files, err := d.ReadDir(-1)
	if err != nil {
		return p, err
	}
	p.Removed = !dryRun
	for _, f := range files {
		info, err := f.Info()
		if err != nil || !info.Mode().IsRegular() || !downloadName.MatchString(f.Name()) {
			continue // gone, or not ours
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			p.Bytes += st.Blocks * 512
		}
		if dryRun {
			continue
		}
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.Removed, p.Detail = false, err.Error()
		}
	}
	return p, nil
}

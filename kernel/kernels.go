package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/fetch"
	"banger/fetch/debian"
	"banger/host/hostfs"
)

// format is the version of the layout of a kernel's directory. A kernel of another
// format still boots, but a pull makes a new one.
const format = 2 // 2: drivers of vsock and balloon

// Kernels keeps kernels below Dir:
//
//	ID/vmlinux  ID/modules.erofs  ID/boot-modules/{early,late}/NN-NAME.ko
//	ID/config  ID/kernel.json  ID/initramfs-HASH
//	ID/lib/NAME, of a kernel that is a program: its loader and library
//
// A directory ID appears complete, by one rename; .pull-* and .lock-* belong to pulls.
// Set the fields before the first use. Methods may be called concurrently, and several
// processes may share Dir.
type Kernels struct {
	Dir   string        // where kernels are kept
	From  debian.Source // where they come from; no other Dir may use its CacheDir
	Agent string        // path of the static binary that becomes /init

	// Flatten writes a root tar as a filesystem image.
	Flatten func(ctx context.Context, tar io.Reader, out *os.File) error

	mu    sync.Mutex
	agent agentSum
}

var _ banger.Kernels = (*Kernels)(nil)

// record is kernel.json.
type record struct {
	banger.Kernel
	Format int `json:"format"`
}

// Pull implements banger.Kernels. Names are debian-12-cloud, debian-13-cloud and debian-13-uml. When
// two pulls of one name run at once, it is fetched once.
func (k *Kernels) Pull(ctx context.Context, name string, update bool, p banger.Progress) (banger.Kernel, error) {
	if _, ok := origins[name]; !ok {
		return banger.Kernel{}, banger.Errorf(banger.CodeNotFound, "no kernel is called %.80q", name).
			WithHint("there are %s", strings.Join(slices.Sorted(maps.Keys(origins)), ", "))
	}
	for _, dir := range []string{k.Dir, k.From.CacheDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return banger.Kernel{}, err
		}
	}
	lock, err := k.lock(ctx, name)
	if err != nil {
		return banger.Kernel{}, err
	}
	defer lock.Close()
	if err := fetch.Sweep(k.From.CacheDir); err != nil {
		return banger.Kernel{}, err
	}
	defer fetch.Hold(ctx, k.From.CacheDir)()
	if got, ok := k.pulled(name); ok && !update {
		return got, nil
	}
	got, err := k.pull(ctx, name, fetch.Report(p, "kernel"))
	if err != nil && ctx.Err() != nil {
		err = banger.Errorf(banger.CodeCanceled, "pull of kernel %s: %w", name, context.Cause(ctx))
	}
	return got, err
}

// Cost says about what a pull of a name takes; false for a name that none has. Measured
// with debian-12-cloud in December 2026: an index of 8 MiB is part of it.
func (k *Kernels) Cost(name string) (banger.Missing, bool) {
	from, ok := origins[name]
	cost := banger.Missing{Kind: "kernel", Name: name, Source: k.From.Root(), Download: 40 << 20, Disk: 140 << 20, Seconds: 20}
	if from.pkg == uml {
		cost.Download, cost.Disk = 48<<20, 200<<20
	}
	return cost, ok
}

// pulled finds the newest kernel of a name in the present format.
func (k *Kernels) pulled(name string) (banger.Kernel, bool) {
	var newest banger.Kernel
	files, _ := filepath.Glob(filepath.Join(k.Dir, "*", "kernel.json")) // the pattern is well-formed
	for _, file := range files {
		r, err := readRecord(file)
		if err == nil && r.Name == name && r.Format == format && r.Created.After(newest.Created) {
			newest = r.Kernel
		}
	}
	return newest, newest.ID != ""
}

func readRecord(file string) (record, error) {
	var r record
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	return r, err
}

// pull is called with the name's lock. So a temporary directory of that name is what a
// pull that died has left.
func (k *Kernels) pull(ctx context.Context, name string, report fetch.Reports) (banger.Kernel, error) {
	stale, _ := filepath.Glob(filepath.Join(k.Dir, ".pull-"+name+"-*")) // the pattern is well-formed
	for _, dir := range stale {
		if err := os.RemoveAll(dir); err != nil {
			return banger.Kernel{}, fmt.Errorf("remove what an earlier pull left: %w", err)
		}
	}
	p, spent, err := k.find(ctx, name, report)
	if err != nil {
		return banger.Kernel{}, err
	}
	defer func() {
		for _, file := range spent { // downloads that the next pull can't use
			_ = os.Remove(file)
		}
	}()
	if have, ok := k.kept(p.id(name)); ok {
		return have, nil
	}
	var debs, sources []string
	for _, p := range p.all() {
		deb, err := k.fetch(ctx, p, report)
		if err != nil {
			return banger.Kernel{}, err
		}
		debs = append(debs, deb)
		sources = append(sources, fmt.Sprintf("%s %s sha256:%s", p.name, p.version, p.file.SHA256))
	}
	report("unpacking "+p.name, 0)(0)
	dir, err := os.MkdirTemp(k.Dir, ".pull-"+name+"-*")
	if err != nil {
		return banger.Kernel{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // on success it was renamed before
	r := record{Format: format, Kernel: banger.Kernel{
		ID: p.id(name), Name: name, Created: k.now(), Source: strings.Join(sources, ", "),
	}}
	if err := k.build(ctx, debs, dir, &r); err != nil {
		return banger.Kernel{}, fmt.Errorf("unpack %s %s: %w", p.name, p.version, err)
	}
	if err := publish(dir, filepath.Join(k.Dir, r.ID)); err != nil {
		return banger.Kernel{}, err
	}
	spent = append(spent, debs...)
	return r.Kernel, nil
}

// id is the id of a kernel: a digest of its name, the format and the packages.
func (p pkg) id(name string) string {
	of := fmt.Appendf(nil, "%s %d", name, format)
	for _, p := range p.all() {
		of = append(of, " "+p.file.SHA256...)
	}
	sum := sha256.Sum256(of)
	return hex.EncodeToString(sum[:6])
}

// kept returns the kernel of an id, if it is here and complete.
func (k *Kernels) kept(id string) (banger.Kernel, bool) {
	r, err := readRecord(filepath.Join(k.Dir, id, "kernel.json"))
	return r.Kernel, err == nil && r.ID == id
}

func (k *Kernels) now() time.Time {
	if k.From.Now == nil {
		return time.Now()
	}
	return k.From.Now()
}

// publish renames a finished directory to its id, durably.
func publish(dir, final string) error {
	if err := os.Chmod(dir, 0o755); err != nil { // MkdirTemp's is private
		return err
	}
	// A directory of that id without a readable record is damaged: replace it.
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	// Sync before the rename: else a power cut could leave a directory that looks complete
	// with files that aren't.
	if err := hostfs.SyncAll(dir); err != nil {
		return err
	}
	if err := os.Rename(dir, final); err != nil {
		return err
	}
	return hostfs.SyncDir(filepath.Dir(final))
}

// Remove implements banger.Kernels. It renames the directory first. If the process dies
// before the files are gone, the next pull of that name removes the rest.
func (k *Kernels) Remove(id string) (bool, error) {
	dir := filepath.Join(k.Dir, id)
	if _, err := os.Lstat(dir); !banger.IsID(id) || errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	r, _ := readRecord(filepath.Join(dir, "kernel.json"))
	if _, known := origins[r.Name]; !known { // or a damaged record
		r.Name = DefaultName
	}
	gone := filepath.Join(k.Dir, ".pull-"+r.Name+"-gone-"+id)
	if err := os.RemoveAll(gone); err != nil {
		return true, err
	}
	if err := os.Rename(dir, gone); err != nil {
		return true, err
	}
	return true, os.RemoveAll(gone)
}

// Boot implements banger.Kernels.
func (k *Kernels) Boot(ctx context.Context, id string) (banger.BootFiles, error) {
	dir := filepath.Join(k.Dir, id)
	gone := banger.Errorf(banger.CodeNotFound, "kernel %.40q is not here", id).WithHint("banger kernel pull")
	if !banger.IsID(id) {
		return banger.BootFiles{}, gone
	}
	r, err := readRecord(filepath.Join(dir, "kernel.json"))
	if errors.Is(err, os.ErrNotExist) {
		return banger.BootFiles{}, gone
	}
	if err != nil {
		return banger.BootFiles{}, fmt.Errorf("record of kernel %s: %w", id, err)
	}
	initramfs, err := k.initramfs(ctx, id)
	if err != nil {
		return banger.BootFiles{}, fmt.Errorf("initramfs of kernel %s: %w", id, err)
	}
	return banger.BootFiles{
		Hypervisor: r.Hypervisor,
		Vmlinux:    filepath.Join(dir, "vmlinux"),
		Initramfs:  initramfs,
		Modules:    filepath.Join(dir, "modules.erofs"),
	}, nil
}

// lock waits for the lock of a kernel's name, to make that kernel, or of its id, to make
// its initramfs.
func (k *Kernels) lock(ctx context.Context, what string) (*os.File, error) {
	f, err := hostfs.OpenLocked(ctx, filepath.Join(k.Dir, ".lock-"+what))
	switch {
	case err == nil:
	case ctx.Err() != nil:
		err = banger.Errorf(banger.CodeCanceled, "wait for another pull: %w", context.Cause(ctx))
	default:
		err = banger.Errorf(banger.CodeUnavailable, "%w", err).
			WithHint("where files can't be locked, kernels can't be kept: set data_dir in config.toml to a directory on a disk of this host")
	}
	return f, err
}

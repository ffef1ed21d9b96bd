package kernel

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"banger"
	"banger/fetch"
	"banger/host/hostfs"
)

// Bounds of what is imported, in bytes and packages.
const (
	maxImport   = 4 << 30
	maxPackages = 16
)

// imported begins the names of imports' directories, and is the lock of all imports: a
// kernel's name can't have it.
const imported = "+import"

// Import implements banger.Kernels.
func (k *Kernels) Import(ctx context.Context, name, source string, from io.Reader, p banger.Progress) (banger.Kernel, error) {
	if name != "" { // before the work, which takes long
		if err := checkName(name); err != nil {
			return banger.Kernel{}, err
		}
	}
	if err := os.MkdirAll(k.Dir, 0o755); err != nil {
		return banger.Kernel{}, err
	}
	lock, err := k.lock(ctx, imported)
	if err != nil {
		return banger.Kernel{}, err
	}
	defer lock.Close()
	dir, err := os.MkdirTemp(k.Dir, ".pull-"+imported+"-*")
	if err != nil {
		return banger.Kernel{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // on success it was renamed before
	in := &importing{k: k, ctx: ctx, dir: dir, left: maxImport, progress: fetch.Report(p, "kernel")("reading it", 0)}
	got, err := in.kernel(name, source, from)
	if err == nil {
		return got, nil
	}
	if ctx.Err() != nil {
		return got, banger.Errorf(banger.CodeCanceled, "import of a kernel: %w", context.Cause(ctx))
	}
	if e, ok := errors.AsType[*banger.Error](err); ok {
		return got, e
	}
	if _, ours := errors.AsType[*os.PathError](err); ours {
		return got, err
	}
	return got, banger.Errorf(banger.CodeInvalid, "%w", err).
		WithHint("a Debian package of a kernel can be imported, and a directory with boot/vmlinuz-VERSION or vmlinux, and lib/modules/VERSION as `make modules_install` writes it")
}

// kernel makes one of what is read.
func (in *importing) kernel(name, source string, from io.Reader) (banger.Kernel, error) {
	root, err := os.OpenRoot(in.dir)
	if err != nil {
		return banger.Kernel{}, err
	}
	defer func() { _ = root.Close() }()
	sum := sha256.New()
	if err := in.read(root, io.TeeReader(from, sum)); err != nil {
		return banger.Kernel{}, err
	}
	for n := range in.packages {
		if err := in.unpack(in.ctx, filepath.Join(in.dir, packageFile(n)), root); err != nil {
			return banger.Kernel{}, err
		}
		if err := root.Remove(packageFile(n)); err != nil {
			return banger.Kernel{}, err
		}
	}
	if name == "" {
		name = in.version
		if err := checkName(name); err != nil && name != "" {
			return banger.Kernel{}, err
		}
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	id := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", name, format, digest))
	r := record{Format: format, Kernel: banger.Kernel{
		ID: hex.EncodeToString(id[:6]), Name: name, Created: in.k.now(), Source: cmp.Or(source, "import") + " sha256:" + digest, Imported: true,
	}}
	if have, ok := in.k.kept(r.ID); ok {
		return have, nil
	}
	if err := in.k.finish(in.ctx, root, in.dir, &in.contents, &r); err != nil {
		return banger.Kernel{}, err
	}
	return r.Kernel, publish(in.dir, filepath.Join(in.k.Dir, r.ID))
}

// checkName checks the name of a kernel that is imported.
func checkName(name string) error {
	if _, taken := origins[name]; taken {
		return banger.Errorf(banger.CodeInvalid, "%s is a kernel of the archive", name).WithHint("choose another name, or `banger kernel pull %s`", name)
	}
	if !versionName.MatchString(name) || len(name) > 64 || banger.IsID(name) {
		return banger.Errorf(banger.CodeInvalid, "%.80q can't be a kernel's name", name).
			WithHint("use letters, digits and . + ~ _ - with a letter or digit first, at most 64; only ids are twelve of 0-9 and a-f")
	}
	return nil
}

// importing reads what is imported: a tar of packages, or of a directory's files.
type importing struct {
	contents
	k        *Kernels
	ctx      context.Context
	dir      string
	packages int
	left     int64
	progress func(int64)
}

func packageFile(n int) string { return fmt.Sprintf("package-%d", n) }

// read keeps a directory's files as the kernel's, and packages beside them.
func (in *importing) read(root *os.Root, from io.Reader) error {
	for t, n := tar.NewReader(from), 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		if err := in.ctx.Err(); err != nil {
			return err
		}
		if in.left -= h.Size; in.left < 0 || n == maxEntries {
			return fmt.Errorf("it has more than %d bytes or %d files", int64(maxImport), maxEntries)
		}
		if in.progress(maxImport - in.left); h.Typeflag != tar.TypeReg {
			continue
		}
		if name := path.Clean("/" + h.Name)[1:]; path.Ext(name) != ".deb" {
			err = in.take(name, t, root)
		} else if in.packages == maxPackages {
			err = fmt.Errorf("it has more than %d packages", maxPackages)
		} else {
			err = store(root, packageFile(in.packages), t, maxImport)
			in.packages++
		}
		if err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
}

// Offers implements banger.Kernels.
func (k *Kernels) Offers() ([]banger.KernelOffer, error) {
	var list []banger.KernelOffer
	for _, name := range slices.Sorted(maps.Keys(origins)) {
		known, err := k.Last(name)
		if err != nil {
			return nil, err
		}
		cost, _ := k.Cost(name)
		o := banger.KernelOffer{Name: name, Source: cost.Source, Release: origins[name].release, Package: origins[name].pkg, Download: cost.Download, Disk: cost.Disk, Newest: known.Newest}
		if known.Have.ID != "" {
			o.ID, o.Version, o.Behind = known.Have.ID, known.Have.Version, known.Behind
		}
		if !known.When.IsZero() {
			o.Looked = &known.When
		}
		list = append(list, o)
	}
	return list, nil
}

// Clean removes what pulls and imports have left that died. Those that are under way
// have their lock.
func (k *Kernels) Clean() error {
	var failed error
	for _, name := range append(slices.Collect(maps.Keys(origins)), imported) {
		stale, _ := filepath.Glob(filepath.Join(k.Dir, ".pull-"+name+"-*")) // the pattern is well-formed
		if len(stale) == 0 {
			continue
		}
		lock, err := hostfs.TryOpenLocked(filepath.Join(k.Dir, ".lock-"+name))
		if errors.Is(err, hostfs.ErrLocked) {
			continue
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		for _, dir := range stale {
			failed = errors.Join(failed, os.RemoveAll(dir))
		}
		_ = lock.Close()
	}
	return failed
}

// kernelFile reports whether a path of an imported directory names its kernel.
func kernelFile(name string) bool {
	name = strings.TrimPrefix(name, "boot/")
	return name == "vmlinux" || name == "vmlinuz" || name == "bzImage"
}

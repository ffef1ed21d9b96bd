package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"

	"github.com/ProtonMail/go-crypto/openpgp"
	"golang.org/x/sys/unix"
)

// format numbers what a pulled kernel's directory holds. A kernel of another
// format still boots, but a pull makes a new one.
const format = 2 // 2: drivers of vsock and balloon

// Kernels keeps kernels below Dir:
//
//	ID/vmlinux  ID/modules.erofs  ID/boot-modules/{early,late}/NN-NAME.ko
//	ID/config  ID/kernel.json  ID/initramfs-HASH
//
// A directory ID appears complete, by one rename; .pull-* and .lock-* belong
// to pulls. Set the fields before first use; methods may then be called from
// many goroutines, and several processes may share Dir.
type Kernels struct {
	Dir      string // where kernels are kept
	CacheDir string // downloads in progress; used with one Dir only
	Mirror   string // of Debian, without dists/…; empty: Mirror of this host
	Agent    string // path of the static binary that becomes /init

	// Flatten writes a root tar as a filesystem image.
	Flatten func(ctx context.Context, tar io.Reader, out *os.File) error
	// Initramfs writes the archive a kernel unpacks: the agent as /init, the
	// modules it loads before and after the freeze point, in order.
	Initramfs func(w io.Writer, agent []byte, early, late []Module) error

	Keys   openpgp.EntityList // who may sign; nil: Debian
	Client *http.Client       // nil: one with bounds
	Stall  time.Duration      // how long a server may be silent; 0: 30 s
	Now    func() time.Time   // nil: time.Now

	mu    sync.Mutex
	agent agentSum
}

// Module is a kernel module for the initramfs.
type Module struct {
	Name string // as lsmod shows it
	Data []byte // uncompressed
}

var _ banger.Kernels = (*Kernels)(nil)

// record is kernel.json.
type record struct {
	banger.Kernel
	Format int `json:"format"`
}

// reporter makes the progress function of one download.
type reporter func(what string, total int64) func(done int64)

// Pull implements banger.Kernels. Names are debian-12-cloud and
// debian-13-cloud. Two pulls of one name at once fetch it once.
func (k *Kernels) Pull(ctx context.Context, name string, p banger.Progress) (banger.Kernel, error) {
	s, ok := suites[name]
	if !ok {
		return banger.Kernel{}, banger.Errorf(banger.CodeNotFound, "no kernel is called %.80q", name).
			WithHint("there are %s", strings.Join(slices.Sorted(maps.Keys(suites)), " and "))
	}
	for _, dir := range []string{k.Dir, k.CacheDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return banger.Kernel{}, err
		}
	}
	unlock, err := lock(ctx, filepath.Join(k.Dir, ".lock-"+name))
	if err != nil {
		return banger.Kernel{}, err
	}
	defer unlock()
	defer Hold(k.CacheDir)()
	if got, ok := k.pulled(name); ok {
		return got, nil
	}
	got, err := k.pull(ctx, name, s, k.reporter(p))
	if err != nil && ctx.Err() != nil {
		err = banger.Errorf(banger.CodeCanceled, "pull of kernel %s: %w", name, context.Cause(ctx))
	}
	return got, err
}

// pulled finds the newest kernel of a name that has the present format.
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

// pull runs with the name's lock held, so whatever carries the name in a
// temporary directory belongs to a dead predecessor.
func (k *Kernels) pull(ctx context.Context, name string, s suite, report reporter) (banger.Kernel, error) {
	stale, _ := filepath.Glob(filepath.Join(k.Dir, ".pull-"+name+"-*")) // the pattern is well-formed
	for _, dir := range stale {
		if err := os.RemoveAll(dir); err != nil {
			return banger.Kernel{}, fmt.Errorf("what a dead pull left: %w", err)
		}
	}
	a, err := k.archive(s)
	if err != nil {
		return banger.Kernel{}, err
	}
	if err := sweepCache(k.CacheDir, time.Now().Add(-keepDownloads)); err != nil {
		return banger.Kernel{}, err
	}
	p, err := a.find(ctx, k.CacheDir, report)
	if err != nil {
		return banger.Kernel{}, err
	}
	address := a.mirror + "/" + p.filename
	deb, err := a.fetch.download(ctx, address, k.CacheDir, p.blob, report(p.name+" "+p.version, p.blob.size))
	if err != nil {
		return banger.Kernel{}, missing(address, err)
	}
	report("unpacking "+p.name, 0)(0)
	dir, err := os.MkdirTemp(k.Dir, ".pull-"+name+"-*")
	if err != nil {
		return banger.Kernel{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // gone by its new name when all went well
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", name, format, p.blob.sha256))
	r := record{Format: format, Kernel: banger.Kernel{
		ID: hex.EncodeToString(sum[:6]), Name: name, Created: a.now,
		Source: fmt.Sprintf("%s %s sha256:%s", p.name, p.version, p.blob.sha256),
	}}
	if err := k.build(ctx, deb, dir, &r); err != nil {
		return banger.Kernel{}, fmt.Errorf("unpack %s %s: %w", p.name, p.version, err)
	}
	if err := publish(dir, filepath.Join(k.Dir, r.ID)); err != nil {
		return banger.Kernel{}, err
	}
	for _, file := range append(a.used, deb) {
		if err := os.Remove(file); err != nil {
			return banger.Kernel{}, err
		}
	}
	return r.Kernel, nil
}

// keepDownloads is how long an unfinished download is worth continuing: by then
// the archive has moved on.
const keepDownloads = 7 * 24 * time.Hour

var downloadName = regexp.MustCompile(`^[0-9a-f]{64}(\.part)?$`)

// sweepCache removes downloads that nobody touched since.
func sweepCache(dir string, since time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !downloadName.MatchString(e.Name()) || info.ModTime().After(since) {
			continue // gone by itself, not ours, or in use
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (k *Kernels) archive(s suite) (*archive, error) {
	return newArchive(s, Source{Mirror: k.Mirror, Keys: k.Keys, Client: k.Client, Stall: k.Stall, Now: k.Now})
}

// publish makes a finished directory appear under its id, on the disk too.
func publish(dir, final string) error {
	if err := os.Chmod(dir, 0o755); err != nil { // MkdirTemp's is private
		return err
	}
	// A directory of that id without a readable record is damaged: replace it.
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Before the rename: a power cut must not leave a complete-looking name on
	// files whose bytes never arrived.
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return os.Rename(dir, final)
}

func (k *Kernels) reporter(p banger.Progress) reporter {
	return func(what string, total int64) func(int64) {
		var said int64 = -1
		return func(done int64) {
			if p == nil || said >= 0 && done-said < 256<<10 && done != total {
				return
			}
			said = done
			p(banger.Event{Stage: "kernel", Message: what, Done: done, Total: total, Time: time.Now()})
		}
	}
}

// Remove implements banger.Kernels. The name goes at once: what a death leaves
// of the rest goes with the next pull of a kernel of that name.
func (k *Kernels) Remove(id string) (bool, error) {
	dir := filepath.Join(k.Dir, id)
	if _, err := os.Lstat(dir); !kernelID.MatchString(id) || errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	r, _ := readRecord(filepath.Join(dir, "kernel.json"))
	if _, known := suites[r.Name]; !known { // or a damaged record
		r.Name = "debian-12-cloud"
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

var kernelID = regexp.MustCompile(`^[0-9a-f]{12}$`)

// Boot implements banger.Kernels.
func (k *Kernels) Boot(ctx context.Context, id string) (banger.BootFiles, error) {
	dir := filepath.Join(k.Dir, id)
	gone := banger.Errorf(banger.CodeNotFound, "kernel %.40q is not here", id).WithHint("banger kernel pull")
	if !kernelID.MatchString(id) {
		return banger.BootFiles{}, gone
	}
	if _, err := os.Stat(filepath.Join(dir, "kernel.json")); errors.Is(err, os.ErrNotExist) {
		return banger.BootFiles{}, gone
	}
	initramfs, err := k.initramfs(ctx, id)
	if err != nil {
		return banger.BootFiles{}, fmt.Errorf("initramfs of kernel %s: %w", id, err)
	}
	return banger.BootFiles{
		Vmlinux:   filepath.Join(dir, "vmlinux"),
		Initramfs: initramfs,
		Modules:   filepath.Join(dir, "modules.erofs"),
	}, nil
}

// lock takes an exclusive file lock: it holds against other processes and is
// released by death.
func lock(ctx context.Context, file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, banger.Errorf(banger.CodeUnavailable, "lock %s: %w", file, err).
				WithHint("where files can't be locked, kernels can't be kept: set data_dir in config.toml to a directory on a disk of this host")
		}
		// flock has no form that a context could end.
		select {
		case <-ctx.Done():
			f.Close()
			return nil, banger.Errorf(banger.CodeCanceled, "wait for another pull: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

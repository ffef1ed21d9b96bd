package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/fetch"
	"banger/fetch/debian"
	"banger/guest"
)

// suites are the distributions that can be built, oldest first, with the default name of
// an image.
var suites = []struct{ name, image string }{{"bookworm", "debian-12"}, {"trixie", "debian-13"}}

func imageOf(suite string) (image string, ok bool) {
	for _, s := range suites {
		if s.name == suite {
			return s.image, true
		}
	}
	return "", false
}

// suiteOf is the suite whose images have a name by default, "" if none.
func suiteOf(image string) string {
	for _, s := range suites {
		if s.image == image {
			return s.name
		}
	}
	return ""
}

// Images is what a Builder needs of the daemon's images.
type Images interface {
	// Add reads a root tar and records the image made of it with img's name,
	// source and lock.
	Add(ctx context.Context, img banger.Image, replace bool, tar io.Reader, p banger.Progress) (banger.Image, error)
	Images(ctx context.Context) ([]banger.Image, error)
	Image(ctx context.Context, ref string) (banger.Image, error)
	DeleteImage(ctx context.Context, ref string) error
	// DropUnfinished removes what is left of builds whose daemon died.
	DropUnfinished(ctx context.Context) error
}

// Machines is what a Builder needs of the daemon's VMs. It makes a VM with a lease, as
// any client does: if the builder dies, the daemon deletes the VM.
type Machines interface {
	banger.VMService
	banger.Leases
}

// Builder implements banger.ImageBuilder. The fields are set before first use.
type Builder struct {
	Archives
	Images   Images
	Machines Machines
	Emulated bool // the VM that configures has no KVM
	NewID    func() string
	Log      *slog.Logger

	one turn // one build at a time: two would only be slower
}

var _ banger.ImageBuilder = (*Builder)(nil)

// The VM in which packages are configured. Programs run one after another in it: a
// second CPU would be idle, and make an emulated one slower.
const (
	buildVCPU      = 1
	buildMemoryMiB = 1024
	buildDiskMiB   = 16 << 10
)

// Cost says about what a build of the minimal image takes under a suite's own name; false
// for any other name. Measured with debian-12 in December 2026: indexes of 9 MiB are
// part of it.
func (b *Builder) Cost(name string) (banger.Missing, bool) {
	m := banger.Missing{Kind: "image", Name: name, Source: b.From.Root(), Download: 130 << 20, Disk: 400 << 20, Seconds: 45}
	if b.Emulated {
		m.Seconds = 240
	}
	return m, suiteOf(name) != ""
}

// BuildImage implements banger.ImageBuilder.
func (b *Builder) BuildImage(ctx context.Context, r banger.Recipe, p banger.Progress) (banger.Image, error) {
	if err := valid(&r); err != nil {
		return banger.Image{}, banger.During(strings.TrimSpace("build image "+r.Name), err)
	}
	img, err := b.build(ctx, r, teller(p))
	if err != nil && ctx.Err() != nil {
		err = banger.Errorf(banger.CodeCanceled, "%w", context.Cause(ctx)).WithHint("try again: what was fetched is kept")
	}
	return img, banger.During(strings.TrimSpace("build image "+r.Name), err)
}

// valid checks a recipe and fills in its defaults.
func valid(r *banger.Recipe) error {
	if r.Lock != nil {
		return validLock(r)
	}
	r.Suite = cmp.Or(r.Suite, suiteOf(r.Name), suites[0].name)
	image, ok := imageOf(r.Suite)
	if !ok {
		return banger.Errorf(banger.CodeInvalid, "no suite %q", r.Suite).WithHint("the suites are bookworm and trixie")
	}
	if r.Name == "" {
		r.Name = image
	}
	switch {
	case r.Minimal && len(r.Packages) > 0:
		return banger.Errorf(banger.CodeInvalid, "a list of packages and the minimal image can't be used together").WithHint("leave one of them out")
	case r.Minimal:
		r.Packages = banger.PackageList(minimalList)
	case len(r.Packages) == 0:
		r.Packages = banger.PackageList(minimalList + defaultList)
	}
	for _, name := range r.Packages {
		if !nameOf.MatchString(name) {
			return banger.Errorf(banger.CodeInvalid, "%q can't be a package's name", name).
				WithHint("a list has one name a line; # begins a comment")
		}
	}
	return nil
}

const makeLock = "make one by: banger image show --lock IMAGE"

// validLock checks a lock, which isn't trusted.
func validLock(r *banger.Recipe) error {
	if r.Suite != "" || len(r.Packages) > 0 || r.Minimal {
		return banger.Errorf(banger.CodeInvalid, "a lock already says which packages of which suite to take").
			WithHint("leave --list and --suite out")
	}
	image, ok := imageOf(r.Lock.Suite)
	if !ok || len(r.Lock.Packages) == 0 {
		return banger.Errorf(banger.CodeInvalid, "the lock has suite %q and %d packages", r.Lock.Suite, len(r.Lock.Packages)).
			WithHint(makeLock)
	}
	if r.Name == "" {
		r.Name = image
	}
	for _, p := range r.Lock.Packages {
		if !nameOf.MatchString(p.Name) || p.Archive != debian.Main && p.Archive != debian.SecurityUpdates {
			return banger.Errorf(banger.CodeInvalid, "the lock has a package %.80q of an archive %.80q", p.Name, p.Archive).WithHint(makeLock)
		}
		if !filepath.IsLocal(p.Path) || len(p.SHA256) != 64 || p.Size <= 0 {
			return banger.Errorf(banger.CodeInvalid, "the lock's package %s has the file %.80q, of %d bytes with hash %.70q", p.Name, p.Path, p.Size, p.SHA256).WithHint(makeLock)
		}
	}
	return nil
}

// teller turns a build's reports into progress. It may be called concurrently.
func teller(p banger.Progress) report {
	var mu sync.Mutex
	var last banger.Event
	return func(stage, message string, done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		e := banger.Event{Stage: stage, Message: message, Done: done, Total: total, Time: time.Now()}
		if stage == "unpack" || stage == "configure" {
			e.Unit = "packages"
		}
		if p == nil || e.Stage == last.Stage && e.Message == last.Message && done != total && e.Time.Sub(last.Time) < 100*time.Millisecond {
			return
		}
		last = e
		p(e)
	}
}

func (b *Builder) build(ctx context.Context, r banger.Recipe, tell report) (banger.Image, error) {
	leave, err := b.one.take(ctx)
	if err != nil {
		return banger.Image{}, err
	}
	defer leave()
	old, err := b.Images.Image(ctx, r.Name)
	switch {
	case banger.CodeOf(err) == banger.CodeNotFound:
		old = banger.Image{}
	case err != nil:
		return old, err
	case r.Replace:
	case old.Lock == nil, r.Lock != nil && !same(*old.Lock, *r.Lock), r.Lock == nil && old.Lock.Suite != r.Suite:
		return banger.Image{}, banger.Errorf(banger.CodeConflict, "another image is named %q", r.Name).
			WithHint("choose another name, or replace it with --replace; VMs made from the old one keep it")
	default:
		return old, nil
	}
	if err := fetch.Sweep(b.From.CacheDir); err != nil {
		return banger.Image{}, err
	}
	defer fetch.Hold(ctx, b.From.CacheDir)()
	var lock banger.Lock
	snapshot := ""
	if r.Lock != nil {
		lock, snapshot = *r.Lock, r.Snapshot
		if snapshot == "" {
			snapshot = publicSnapshot
		}
	} else if lock, err = b.resolve(ctx, r.Suite, r.Packages, tell); err != nil {
		return banger.Image{}, err
	}
	if old.Lock != nil && same(*old.Lock, lock) {
		return old, nil
	}
	files, err := b.fetch(ctx, lock, snapshot, tell)
	if err != nil {
		return banger.Image{}, err
	}
	return b.make(ctx, r, lock, files, tell)
}

// turn is a mutex on which waiting ends with a context.
type turn struct {
	once sync.Once
	held chan struct{}
}

func (t *turn) take(ctx context.Context) (leave func(), err error) {
	t.once.Do(func() { t.held = make(chan struct{}, 1) })
	select {
	case t.held <- struct{}{}:
		return func() { <-t.held }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another build: %w", context.Cause(ctx))
	}
}

// same reports whether two locks mean the same packages.
func same(a, b banger.Lock) bool {
	return a.Suite == b.Suite && reflect.DeepEqual(a.Packages, b.Packages)
}

// make unpacks, configures and publishes. It removes the VM and the unfinished image in
// any case.
func (b *Builder) make(ctx context.Context, r banger.Recipe, lock banger.Lock, files []string, tell report) (img banger.Image, err error) {
	unfinished := banger.UnfinishedImage + b.NewID()
	dirs, err := b.unpack(ctx, unfinished, lock, files, tell)
	if err != nil {
		return banger.Image{}, fmt.Errorf("unpack: %w", err)
	}
	defer func() { err = errors.Join(err, undo(ctx, b.sweep, unfinished)) }()
	tell("builder", "", 0, 0)
	vm, err := b.Machines.CreateVM(ctx, banger.Spec{
		Name: "build-" + b.NewID(), Image: unfinished, VCPU: buildVCPU, MemoryMiB: buildMemoryMiB, DiskMiB: buildDiskMiB,
		Net: banger.NetNone, NoInit: true, Remove: true, Cold: true,
	}, true, nil)
	if err != nil {
		return banger.Image{}, fmt.Errorf("start the VM that configures: %w", err)
	}
	defer func() { err = errors.Join(err, undo(ctx, b.Machines.DeleteVM, vm.ID)) }()
	held, release := context.WithCancel(ctx)
	defer release()
	go func() {
		if err := b.Machines.HoldVM(held, vm.ID, nil); err != nil {
			b.Log.Warn("the lease on a builder's VM ended", "vm", vm.ID, "err", err)
		}
	}()
	m := machine{report: tell, client: guest.Client{
		Dial:  func(ctx context.Context) (net.Conn, error) { return b.Machines.Dial(ctx, vm.ID) },
		Final: banger.IsDown,
	}}
	if err := m.configure(ctx, lock.Packages); err != nil {
		return banger.Image{}, banger.Errorf(banger.CodeInternal, "configure the packages: %w", err).
			WithHint("a package may need a running system to be configured: leave it out of the list")
	}
	return b.publish(ctx, m, r, lock, dirs, tell)
}

// sweep removes this build's unfinished image, and those of builds that a daemon didn't
// survive: no other build is under way.
func (b *Builder) sweep(ctx context.Context, unfinished string) error {
	return errors.Join(b.Images.DeleteImage(ctx, unfinished), b.Images.DropUnfinished(ctx))
}

// undo removes something. It does so even if ctx has ended.
func undo(ctx context.Context, remove func(context.Context, string) error, what string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return remove(ctx, what)
}

// unpack makes the unfinished image, of unpacked packages, and returns the directories
// that packages have.
func (b *Builder) unpack(ctx context.Context, name string, lock banger.Lock, files []string, tell report) (map[string]bool, error) {
	r, w := io.Pipe()
	t := newTree(w)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(t.fill(ctx, lock, files, tell))
	}()
	_, err := b.Images.Add(ctx, banger.Image{Name: name, Source: "packages to be configured", Unfinished: true}, false, r, nil)
	_ = r.CloseWithError(errors.New("the image's writer has stopped reading"))
	<-done
	return t.dirs, err
}

func (t *tree) fill(ctx context.Context, lock banger.Lock, files []string, tell report) error {
	order := make([]int, len(lock.Packages))
	for i := range order {
		order[i] = i
	}
	// base-files comes first: it has the modes of the top directories.
	slices.SortStableFunc(order, func(a, b int) int { return first(lock.Packages[a]) - first(lock.Packages[b]) })
	for n, i := range order {
		p := lock.Packages[i]
		tell("unpack", p.Name, int64(n), int64(len(order)))
		if err := t.add(ctx, p, files[i]); err != nil {
			return fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
		}
	}
	return t.finish(lock)
}

func first(p banger.Package) int {
	if p.Name == "base-files" {
		return 0
	}
	return 1
}

// publish makes the image of the configured root.
func (b *Builder) publish(ctx context.Context, m machine, r banger.Recipe, lock banger.Lock, dirs map[string]bool, tell report) (banger.Image, error) {
	mounts, err := m.mounts(ctx)
	if err != nil {
		return banger.Image{}, err
	}
	fromGuest, guestSide := io.Pipe()
	toImage, imageSide := io.Pipe()
	var work sync.WaitGroup
	work.Go(func() { guestSide.CloseWithError(m.export(ctx, &counting{guestSide, 0, tell})) })
	work.Go(func() {
		t := trimmer{mounts: mounts, dirs: dirs, date: lock.Date}
		err := t.copy(imageSide, fromGuest)
		if err == nil {
			_, err = io.Copy(io.Discard, fromGuest) // the tar's padding; the error says how tar ended
		}
		imageSide.CloseWithError(err)
		fromGuest.CloseWithError(err)
	})
	img, err := b.Images.Add(ctx, banger.Image{
		Name: r.Name, Source: fmt.Sprintf("%d packages of Debian %s, %s", len(lock.Packages), lock.Suite, lock.Date.Format(time.DateOnly)), Lock: &lock,
	}, r.Replace, toImage, nil)
	_ = toImage.CloseWithError(errors.New("the image's writer has stopped reading"))
	work.Wait()
	return img, err
}

// counting reports how many bytes have come out of the guest.
type counting struct {
	w    io.Writer
	n    int64
	tell report
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.tell("export", "", c.n, 0)
	return n, err
}

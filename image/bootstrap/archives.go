package bootstrap

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"banger"
	"banger/debian"
)

// The archives a Debian is made of, by the last element of their address.
const (
	mainArchive     = "debian"
	securityArchive = "debian-security"
	publicSecurity  = "http://deb.debian.org/debian-security"
	publicSnapshot  = "https://snapshot.debian.org/archive"
)

// Archives says where packages come from.
type Archives struct {
	CacheDir string
	Mirror   string // of Debian; empty: the one this host uses
	Security string // of debian-security; empty: the public one

	Keys   openpgp.EntityList // who may sign; nil: Debian
	Client *http.Client
	Stall  time.Duration
	Now    func() time.Time
}

// parallel is how many packages are fetched at once: one connection seldom fills
// a line, and a mirror shouldn't notice us.
const parallel = 4

type report func(stage, message string, done, total int64)

func (a Archives) source(archive, codename string) debian.Source {
	s := debian.Source{Mirror: a.Mirror, Codename: codename, CacheDir: a.CacheDir, Keys: a.Keys, Client: a.Client, Stall: a.Stall, Now: a.Now}
	if archive == securityArchive {
		if s.Mirror = a.Security; s.Mirror == "" {
			s.Mirror = publicSecurity
		}
	}
	return s
}

// resolve makes a lock of what the archives have now.
func (a Archives) resolve(ctx context.Context, suite string, wanted []string, tell report) (banger.Lock, error) {
	lock := banger.Lock{Suite: suite}
	all := newUniverse()
	for _, part := range []struct{ archive, codename string }{
		{mainArchive, suite}, {mainArchive, suite + "-updates"}, {securityArchive, suite + "-security"},
	} {
		date, err := a.source(part.archive, part.codename).Index(ctx,
			func(done, total int64) { tell("index", part.codename, done, total) },
			func(s map[string]string) error { return all.add(part.archive, s) })
		if err != nil {
			return lock, err
		}
		if date.After(lock.Date) {
			lock.Date = date
		}
	}
	all.seal()
	var err error
	lock.Packages, err = all.resolve(wanted)
	return lock, err
}

// fetch brings all packages of a lock and returns their files, in order. What a
// mirror no longer has comes from snapshot, an archive of archives, when that is
// given.
func (a Archives) fetch(ctx context.Context, lock banger.Lock, snapshot string, tell report) ([]string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &fetching{from: a, lock: lock, snapshot: snapshot, tell: tell, files: make([]string, len(lock.Packages)), have: make([]int64, len(lock.Packages))}
	for _, p := range lock.Packages {
		f.total += p.Size
	}
	next := make(chan int)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for i := range next {
				if err := f.one(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range lock.Packages {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	workers.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return f.files, nil
}

// fetching is one fetch at work.
type fetching struct {
	from     Archives
	lock     banger.Lock
	snapshot string
	tell     report
	files    []string

	mu    sync.Mutex // guards what follows
	have  []int64    // bytes of each package
	done  int64
	total int64
}

func (f *fetching) one(ctx context.Context, i int) error {
	if ctx.Err() != nil {
		return nil
	}
	p := f.lock.Packages[i]
	file := debian.File{Path: p.Path, SHA256: p.SHA256, Size: p.Size}
	progress := func(done int64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.done += done - f.have[i]
		f.have[i] = done
		f.tell("packages", "", f.done, f.total)
	}
	from := f.from.source(p.Archive, "")
	path, found, err := from.Fetch(ctx, file, progress)
	if err == nil && !found && f.snapshot != "" {
		from.Mirror = strings.TrimRight(f.snapshot, "/") + "/" + p.Archive + "/" + f.lock.Date.UTC().Format("20060102T150405Z")
		path, found, err = from.Fetch(ctx, file, progress)
	}
	if err == nil && !found {
		err = banger.Errorf(banger.CodeUnavailable, "package %s %s isn't where the archive's index says", p.Name, p.Version)
		if f.snapshot == "" {
			return err.(*banger.Error).WithHint("the mirror may be changing at this moment: try again")
		}
		return err.(*banger.Error).WithHint("neither the mirror nor the snapshot archive has it: set another one with --snapshot")
	}
	f.files[i] = path
	return err
}

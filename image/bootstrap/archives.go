package bootstrap

import (
	"context"
	"errors"
	"strings"
	"sync"

	"banger"
	"banger/fetch"
	"banger/fetch/debian"
)

const publicSnapshot = "https://snapshot.debian.org/archive"

// Archives says where packages come from.
type Archives struct {
	From debian.Source
	// Noticed, unless nil, is called for each release whose indexes are read: each gets
	// every package, and done is called after the last one.
	Noticed func(release string) (each func(map[string]string) error, done func())
}

// parallel is how many packages are fetched at once. One connection is often slower than
// the line, and many would be a load for the mirror.
const parallel = 4

type report func(stage, message string, done, total int64)

// resolve makes a lock of the packages that the archives have now.
func (a Archives) resolve(ctx context.Context, suite string, wanted []string, tell report) (banger.Lock, error) {
	lock := banger.Lock{Suite: suite}
	all := newUniverse()
	notice, noticed := func(map[string]string) error { return nil }, func() {}
	if a.Noticed != nil {
		notice, noticed = a.Noticed(suite)
	}
	for _, part := range a.From.Suites(suite) {
		index, err := part.Index(ctx, func(done, total int64) { tell("index", part.Codename, done, total) })
		if err == nil {
			err = index.Each(ctx, func(s map[string]string) error {
				return errors.Join(all.add(part.Archive, s), notice(s))
			})
		}
		if err != nil {
			return lock, err
		}
		if index.Date.After(lock.Date) {
			lock.Date = index.Date
		}
	}
	noticed()
	all.seal()
	var err error
	lock.Packages, err = all.resolve(wanted)
	return lock, err
}

// fetch fetches all packages of a lock and returns their files, in order. A package that
// the mirror no longer has comes from snapshot, an archive of old packages, unless "".
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

// fetching is the state of one fetch.
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
	file := debian.File{Path: p.Path, Blob: fetch.Blob{SHA256: p.SHA256, Size: p.Size}}
	progress := func(done int64) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.done += done - f.have[i]
		f.have[i] = done
		f.tell("packages", "", f.done, f.total)
	}
	from := f.from.From
	from.Archive = p.Archive
	path, found, err := from.Fetch(ctx, file, progress)
	if err == nil && !found && f.snapshot != "" {
		from.Mirror = strings.TrimRight(f.snapshot, "/") + "/" + p.Archive + "/" + f.lock.Date.UTC().Format("20060102T150405Z")
		from.Security = from.Mirror
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

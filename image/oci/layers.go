package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"banger"
	"banger/fetch"
	"banger/host/hostfs"
)

// sideBySide is how many layers are fetched at once.
const sideBySide = 4

// make makes an image of a registry's layers, and drops others that nobody used for long.
func (r *Registries) make(ctx context.Context, from *remoteImage, m *image, p banger.Progress) (banger.Image, error) {
	img, err := r.flatten(ctx, from, m, p)
	if err == nil {
		err = fetch.Sweep(r.Dir)
	}
	return img, err
}

// flatten fetches the layers of an image and flattens them, the lowest while others are
// still on their way.
func (r *Registries) flatten(ctx context.Context, from *remoteImage, m *image, p banger.Progress) (banger.Image, error) {
	defer fetch.Hold(ctx, r.Dir)()
	if err := r.room(m); err != nil {
		return banger.Image{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	d := &download{r: r, from: from, progress: p, count: len(m.layers), have: map[int]int64{}}
	for n, l := range m.layers {
		d.total += l.Size
		d.layers = append(d.layers, &layer{Descriptor: l, n: n, done: make(chan struct{})})
	}
	var fetched sync.WaitGroup
	defer fetched.Wait()
	defer cancel()
	fetched.Go(func() { d.run(ctx) })
	return r.Store.ImportLayers(ctx, m.id(), m.flat(d.open), d.converting)
}

// room returns an error for an image that can't be had: its manifest says more than there
// may be, or than there is room for.
func (r *Registries) room(m *image) error {
	var total int64
	for _, l := range m.layers {
		if most := r.Store.Limits.Of().Bytes; l.Size < 0 || l.Size > most-total {
			return invalid("the image's layers have over %d bytes (image_max_gib in config.toml)", most)
		}
		total += l.Size
	}
	dir, err := os.Open(r.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := r.Store.Limits.Room(dir); err != nil {
		return err
	}
	if free, err := hostfs.Free(dir); err == nil && free<<20 < total {
		return banger.Errorf(banger.CodeUnavailable, "the image's layers have %d MiB, and %s has room for %d", total>>20, r.Dir, free).
			WithHint("make room and try again: `banger system prune` deletes what no VM uses")
	}
	return nil
}

// download is all layers of one image.
type download struct {
	r      *Registries
	from   *remoteImage
	layers []*layer
	count  int
	total  int64 // bytes of all

	mu       sync.Mutex // guards what follows; progress is called with it
	progress banger.Progress
	have     map[int]int64 // bytes of each layer
	whole    int           // layers that are here
}

// layer is one of them.
type layer struct {
	v1.Descriptor
	n    int
	done chan struct{} // closed when path or err is known
	path string
	err  error
}

// run fetches all layers, the lowest first, until one fails.
func (d *download) run(ctx context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	turns := make(chan struct{}, sideBySide)
	var all sync.WaitGroup
	defer all.Wait()
	for _, l := range d.layers {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			defer close(l.done)
			if l.path, l.err = d.fetch(ctx, l); l.err != nil {
				cancel(l.err) // the image can't be had: the others needn't come
			}
		})
	}
}

func (d *download) fetch(ctx context.Context, l *layer) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", context.Cause(ctx)
	}
	f := fetch.Fetcher{Client: d.from.client, Stall: d.r.Stall}
	path, err := f.Download(ctx, d.from.base+l.Digest.String(), d.r.Dir, fetch.Blob{SHA256: l.Digest.Hex, Size: l.Size}, func(n int64) { d.at(l, n, 0) })
	if err == nil {
		d.at(l, l.Size, 1)
		return path, nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return "", cause // another layer failed before
	}
	name := fmt.Sprintf("layer %d of %d (%s)", l.n+1, d.count, l.Digest)
	switch e, ok := errors.AsType[*banger.Error](err); {
	case errors.Is(err, fetch.ErrMissing):
		return "", banger.Errorf(banger.CodeUnavailable, "%s doesn't have %s, which the image's manifest names", d.from.host(), name).WithHint("the registry is damaged: ask whoever keeps it")
	case ok:
		return "", banger.Errorf(e.Code, "%s: %w", name, err).WithHint("try again: what has arrived is kept")
	}
	return "", fmt.Errorf("%s: %w", name, err)
}

// at tells how much of a layer is here.
func (d *download) at(l *layer, n int64, whole int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.have[l.n] = n
	d.whole += whole
	var sum int64
	for _, n := range d.have {
		sum += n
	}
	say(d.progress, banger.Event{Stage: "layers", Done: sum, Total: d.total, Message: fmt.Sprintf("%d of %d are here", d.whole, d.count)})
}

// converting passes the writer's progress on once nothing is fetched any more.
func (d *download) converting(e banger.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.whole == d.count {
		say(d.progress, e)
	}
}

// open waits for a layer and opens it.
func (d *download) open(ctx context.Context, n int, _ v1.Descriptor) (io.ReadCloser, error) {
	l := d.layers[n]
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil, banger.Errorf(banger.CodeCanceled, "waiting for a layer: %w", context.Cause(ctx))
	}
	if l.err != nil {
		return nil, l.err
	}
	return os.Open(l.path)
}

func say(p banger.Progress, e banger.Event) {
	if p != nil {
		p(e)
	}
}

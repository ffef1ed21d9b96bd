package rootfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"banger"
)

// Version is that of the bytes which WriteLayers makes of layers: whoever changes those
// raises it. It enters the ids of images, as one id must mean the same bytes everywhere.
const Version = 1

// MaxLayers is how many layers an image may have.
const MaxLayers = 1000

// Layer is one of several tars that make a root filesystem, each over those before it.
// It may hide what they have, as the image specification of the OCI says.
type Layer struct {
	Name   string // for errors: "layer 2 of 5"
	DiffID string // SHA-256 of the tar without compression, in lower-case hex
	// Open returns the tar, plain or compressed. It waits until that is there.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// WriteLayers is Write of a root filesystem in layers, the lowest first. Names may begin
// with slashes. A layer whose content isn't that of its DiffID is banger.CodeInvalid.
func WriteLayers(ctx context.Context, layers []Layer, out *os.File, p banger.Progress) (Stats, error) {
	return writeLayers(ctx, layers, out, p, Limits{}.whole())
}

func writeLayers(ctx context.Context, layers []Layer, out *os.File, p banger.Progress, most limits) (Stats, error) {
	if len(layers) == 0 || len(layers) > MaxLayers {
		return Stats{}, banger.Errorf(banger.CodeInvalid, "the image has %d layers; it can have 1 to %d", len(layers), MaxLayers)
	}
	if err := out.Truncate(0); err != nil {
		return Stats{}, fmt.Errorf("empty the image file: %w", err)
	}
	im, err := newImporter(ctx, out, p, most)
	if err != nil {
		return Stats{}, err
	}
	defer im.tree.close()
	im.layered = true
	for i, l := range layers {
		im.tree.layer = uint64(i) + 1
		if err := im.layer(ctx, l); err != nil {
			return Stats{}, err
		}
	}
	return im.finish(ctx)
}

func (im *importer) layer(ctx context.Context, l Layer) error {
	if im.src != nil {
		im.before += im.src.read
	}
	im.what = l.Name
	stream, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	if err := im.read(ctx, stream); err != nil {
		return err
	}
	if got := hex.EncodeToString(im.src.sum.Sum(nil)); got != l.DiffID {
		return banger.Errorf(banger.CodeInvalid, "%s isn't what the image's config says: its content is sha256:%s, not sha256:%s", l.Name, got, l.DiffID)
	}
	return nil
}

// ImportLayers makes an image of layers, with the bounds and errors of WriteLayers, and
// publishes it under an id of its caller's. One id must always mean the same layers.
func (s *Store) ImportLayers(ctx context.Context, id string, layers []Layer, p banger.Progress) (banger.Image, error) {
	return s.make(ctx, func(f *os.File) (stats Stats, _ string, err error) {
		stats, err = writeLayers(ctx, layers, f, p, s.Limits.whole())
		return stats, id, err
	})
}

// Made returns the image of an id if it is there already: its size, and no entries.
func (s *Store) Made(id string) (banger.Image, bool, error) {
	info, err := os.Stat(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return banger.Image{}, false, nil
	}
	if err != nil {
		return banger.Image{}, false, fmt.Errorf("look for image %s: %w", id, err)
	}
	return banger.Image{ID: id, Size: info.Size(), Created: time.Now()}, true, nil
}

// Package rootfs turns a stream of a root filesystem (a tar, plain or
// compressed) into a read-only filesystem image, and keeps such images in a
// directory, each under an id made of its content.
//
// What the image shows is what `tar -x --numeric-owner --xattrs
// --xattrs-include='*' --acls` would leave as root: contents, owners, modes,
// times to the nanosecond, hard links, holes, devices, attributes, access
// control lists, and any file name Linux allows. Nothing is ever extracted: no
// name in the stream becomes a path of the host. A stream that means anything
// outside its own root, or isn't whole, is refused.
//
// It refuses to know what an image is called, who uses it, where it came from,
// and how the filesystem's bytes look.
package rootfs

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"banger"
	"banger/erofs"
)

// The bounds of one import. They keep its memory below 150 MB, beside the
// window of a compressed stream (64 MiB at most), and its disk from filling.
const (
	MaxEntries     = 3 << 19   // names in an image
	MaxDirectories = 1 << 20   // of which directories
	maxNameBytes   = 32 << 20  // all names and the directories' attributes together
	MaxBytes       = 512 << 30 // of the stream, and of what its files claim to hold, holes too
)

// Stats says what an import read and made.
type Stats struct {
	Entries int   // names in the image, without the root
	Size    int64 // bytes of the image
	Read    int64 // bytes read of the tar, after decompression
}

// Write reads a root tar (plain, gzip, xz or zstd) to its end and writes an
// EROFS image of it to out, which is emptied first. The same tar gives the same
// image. It neither syncs out nor closes it, and leaves it in pieces on error.
//
// A stream that is hostile, damaged or over a bound is banger.CodeInvalid, and
// the message names the entry. When ctx ends, the stream is closed if it is an
// io.Closer, since a read can't be interrupted otherwise: banger.CodeCanceled.
func Write(ctx context.Context, stream io.Reader, out *os.File, p banger.Progress) (Stats, error) {
	return write(ctx, stream, out, p, MaxBytes)
}

func write(ctx context.Context, stream io.Reader, out *os.File, p banger.Progress, maxBytes int64) (Stats, error) {
	if err := out.Truncate(0); err != nil {
		return Stats{}, fmt.Errorf("empty the image file: %w", err)
	}
	if c, ok := stream.(io.Closer); ok {
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
	}
	tree, err := newTree()
	if err != nil {
		return Stats{}, err
	}
	defer tree.close()
	src, err := openSource(ctx, stream, maxBytes)
	defer src.close()
	im := &importer{
		src: src, tar: tar.NewReader(src), tree: tree, image: erofs.NewWriter(out),
		progress: p, left: maxBytes, last: time.Now(),
	}
	if err == nil {
		err = im.run()
	}
	if err != nil {
		return Stats{}, im.explain(ctx, err)
	}
	im.report()
	return Stats{Entries: tree.entries(), Size: im.image.Size(), Read: src.read}, nil
}

// importer is one Write at work.
type importer struct {
	src      *source
	tar      *tar.Reader
	tree     *tree
	image    *erofs.Writer
	entry    string // the entry in work, or the last one seen
	left     int64  // bytes files may still claim
	progress banger.Progress
	last     time.Time // of the last report
}

func (im *importer) run() error {
	for {
		h, err := im.tar.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // we judge names ourselves
			return err
		}
		im.entry = h.Name
		if err := im.add(h); err != nil {
			return err
		}
		if time.Since(im.last) > reportEvery {
			im.report()
		}
	}
	if err := im.src.finish(); err != nil {
		return err
	}
	if err := im.tree.write(im.image); err != nil {
		return err
	}
	return im.image.Close()
}

const reportEvery = 250 * time.Millisecond

func (im *importer) report() {
	im.last = time.Now()
	if im.progress != nil {
		im.progress(banger.Event{
			Stage: "image", Done: im.src.read, Time: im.last,
			Message: strconv.Itoa(im.tree.entries()) + " entries",
		})
	}
}

// explain makes an error one that a user may see: it separates a bad stream
// from a bad disk, a broken connection and a client who left.
func (im *importer) explain(ctx context.Context, err error) error {
	if cause := cmp.Or(ctx.Err(), im.src.raw.failed); cause != nil {
		code := banger.CodeUnavailable
		if ctx.Err() != nil {
			code = banger.CodeCanceled
		}
		return banger.Errorf(code, "the root archive was not read to its end: %w", cause)
	}
	if _, ok := errors.AsType[*banger.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[*os.PathError](err); ok { // only the image file is one
		return banger.Errorf(banger.CodeUnavailable, "write the filesystem image: %w", err)
	}
	switch {
	case im.entry == "":
		return banger.Errorf(banger.CodeInvalid, "not a whole root archive (tar, plain or compressed with gzip, xz or zstd): %w", err)
	case im.src.ended && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)):
		return banger.Errorf(banger.CodeInvalid, "root archive is cut off at or after entry %q: %w", im.entry, err)
	}
	return banger.Errorf(banger.CodeInvalid, "root archive, at or after entry %q: %w", im.entry, err)
}

// refuse is the error for an entry that can't be part of an image.
func refuse(name, format string, args ...any) error {
	return banger.Errorf(banger.CodeInvalid, "root archive: entry %q %w", name, fmt.Errorf(format, args...))
}

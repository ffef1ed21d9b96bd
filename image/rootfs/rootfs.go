// Package rootfs turns a stream of a root filesystem (a tar, plain or
// compressed) into a read-only filesystem image, and keeps such images in a
// directory, each under an id made of its content.
//
// The image has what `tar -x --numeric-owner --xattrs --xattrs-include='*' --acls` would
// extract as root: contents, owners, modes, times to the nanosecond, hard links, holes,
// devices, attributes, access control lists, and any file name that Linux allows. Nothing
// is extracted on the host: no name in the stream becomes a path of the host. A stream
// with a name that leads out of its root, or one that was cut off, is refused.
//
// Sizes are in bytes. Errors that a user may see are banger.Error.
//
// It knows nothing of what an image is called, who uses it, or where it came from.
// Package erofs knows the bytes of the filesystem.
package rootfs

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/hostfs"
	"banger/image/erofs"
)

// The bounds of one import. They keep its memory below 150 MB, plus at most 64 MiB for
// decompression, and keep the disk from filling up.
const (
	MaxEntries     = 3 << 19   // names in an image
	MaxDirectories = 1 << 20   // how many of them may be directories
	maxNameBytes   = 32 << 20  // all names and the directories' attributes together
	MaxBytes       = 512 << 30 // of the stream, and of the sizes of its files, holes included
)

// Limits are bounds of an import that a user may set. A zero means the default.
type Limits struct {
	Bytes   int64 // of the stream, and of the sizes of its files: MaxBytes
	Entries int   // names in an image: MaxEntries, which is also the most
	FreeMiB int   // left free on the filesystem, for guests that write there: 512
}

// leaveMiB is FreeMiB when nobody says.
const leaveMiB = 512

// Of returns the bounds with the defaults in place of zeroes.
func (l Limits) Of() Limits {
	return Limits{cmp.Or(l.Bytes, MaxBytes), min(cmp.Or(l.Entries, MaxEntries), MaxEntries), cmp.Or(l.FreeMiB, leaveMiB)}
}

// limits are the bounds of one import.
type limits struct {
	Limits
	room func(*os.File) error // returns an error when the disk is too full
}

func (l Limits) whole() limits { return limits{l.Of(), l.Room} }

// Stats says what an import read and made.
type Stats struct {
	Entries int   // names in the image, without the root
	Size    int64 // bytes of the image
	Read    int64 // bytes read of the tar, after decompression
}

// Write reads a root tar (plain, gzip, xz or zstd) to its end and writes an EROFS image of
// it to out, which is emptied first. The same tar gives the same image. Write neither
// syncs nor closes out, and leaves it incomplete on error.
//
// A stream that is hostile, damaged or over a bound is banger.CodeInvalid, and the message
// names the entry. When ctx ends it is banger.CodeCanceled; to interrupt a read, Write
// then closes the stream if it is an io.Closer.
func Write(ctx context.Context, stream io.Reader, out *os.File, p banger.Progress) (Stats, error) {
	return write(ctx, stream, out, p, Limits{}.whole())
}

func write(ctx context.Context, stream io.Reader, out *os.File, p banger.Progress, most limits) (Stats, error) {
	if err := out.Truncate(0); err != nil {
		return Stats{}, fmt.Errorf("empty the image file: %w", err)
	}
	im, err := newImporter(ctx, out, p, most)
	if err != nil {
		return Stats{}, err
	}
	defer im.tree.close()
	im.what = "root archive"
	if err := im.read(ctx, stream); err != nil {
		return Stats{}, err
	}
	if im.tree.isImageArchive() {
		return Stats{}, banger.Errorf(banger.CodeInvalid, "the archive holds an image in layers (docker save, OCI), not a root filesystem").
			WithHint("docker export CONTAINER writes a root filesystem")
	}
	return im.finish(ctx)
}

func newImporter(ctx context.Context, out *os.File, p banger.Progress, most limits) (*importer, error) {
	tree, err := newTree()
	if err != nil {
		return nil, err
	}
	im := &importer{
		tree: tree, image: erofs.NewWriter(out), most: most, room: func() error { return most.room(out) },
		progress: p, left: most.Bytes, last: time.Now(),
	}
	tree.most = uint32(most.Entries)
	tree.target = im.image.Target
	tree.drop = func(i erofs.Inode) error {
		_, err := im.image.Link(i, -1)
		return err
	}
	return im, nil
}

// finish writes what is only known at the end.
func (im *importer) finish(ctx context.Context) (Stats, error) {
	err := im.tree.write(im.image)
	if err == nil {
		err = im.image.Close()
	}
	if err != nil {
		return Stats{}, im.explain(ctx, err)
	}
	im.report()
	return Stats{Entries: im.tree.entries(), Size: im.image.Size(), Read: im.before + im.src.read}, nil
}

// Room returns an error when a file's disk is so full that guests soon couldn't write. It is
// asked again and again, as a stream's size isn't known before its end.
func (l Limits) Room(out *os.File) error {
	leave := l.Of().FreeMiB
	have, err := hostfs.Free(out)
	if err == nil && have < int64(leave) {
		err = banger.Errorf(banger.CodeUnavailable, "the filesystem of %s has %d MiB left, and %d stay free for VMs (image_leave_free_mib in config.toml): %w", out.Name(), have, leave, unix.ENOSPC).
			WithHint("make room and try again: `banger system prune` deletes what no VM uses")
	}
	return err
}

// importer is the state of one Write, or of one WriteLayers.
type importer struct {
	what     string  // that is read, for errors
	layered  bool    // it is a layer: it may hide what is below
	src      *source // of this layer
	tar      *tar.Reader
	tree     *tree
	image    *erofs.Writer
	entry    string // the current entry, or the last one
	most     limits
	room     func() error
	before   int64 // bytes of the layers before this one, decompressed
	left     int64 // how many bytes files may still have
	progress banger.Progress
	last     time.Time // of the last report
}

// read reads one tar to its end.
func (im *importer) read(ctx context.Context, stream io.Reader) error {
	if c, ok := stream.(io.Closer); ok {
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
	}
	src, err := openSource(ctx, stream, im.most.Bytes-im.before)
	defer src.close()
	src.room, im.src, im.entry = im.room, src, ""
	if im.layered {
		src.sum = sha256.New()
	}
	im.tar = tar.NewReader(src)
	if err == nil {
		err = im.run()
	}
	if err != nil {
		return im.explain(ctx, err)
	}
	return nil
}

func (im *importer) run() error {
	for {
		h, err := im.tar.Next()
		if err == io.EOF {
			return im.src.finish()
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
}

const reportEvery = 250 * time.Millisecond

func (im *importer) report() {
	im.last = time.Now()
	if im.progress != nil {
		im.progress(banger.Event{
			Stage: "image", Done: im.before + im.src.read, Time: im.last,
			Message: strconv.Itoa(im.tree.entries()) + " entries",
		})
	}
}

// explain makes an error for users. It tells a bad stream from an error of the disk, a
// broken connection and a client that left.
func (im *importer) explain(ctx context.Context, err error) error {
	if cause := cmp.Or(ctx.Err(), im.src.raw.failed); cause != nil {
		code := banger.CodeUnavailable
		if ctx.Err() != nil {
			code = banger.CodeCanceled
		}
		return banger.Errorf(code, "the %s was not read to its end: %w", im.what, cause)
	}
	if _, ok := errors.AsType[*banger.Error](err); ok {
		return err
	}
	if r, ok := errors.AsType[refusal](err); ok {
		return banger.Errorf(banger.CodeInvalid, "%s: entry %q %w", im.what, r.name, r.error)
	}
	if _, ok := errors.AsType[*os.PathError](err); ok { // only the image file is one
		return banger.Errorf(banger.CodeUnavailable, "write the filesystem image: %w", err)
	}
	switch {
	case im.entry == "":
		return banger.Errorf(banger.CodeInvalid, "not a whole %s (tar, plain or compressed with gzip, xz or zstd): %w", im.what, err)
	case im.src.ended && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)):
		return banger.Errorf(banger.CodeInvalid, "%s is cut off at or after entry %q: %w", im.what, im.entry, err)
	}
	return banger.Errorf(banger.CodeInvalid, "%s, at or after entry %q: %w", im.what, im.entry, err)
}

// refusal is the error for an entry that can't be in an image.
type refusal struct {
	name string
	error
}

func refuse(name, format string, args ...any) error {
	return refusal{name, fmt.Errorf(format, args...)}
}

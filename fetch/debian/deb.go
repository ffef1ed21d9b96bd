package debian

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"banger/fetch/xz"
)

// Bounds of a package's size, ten times Debian's largest, and of the memory for
// decompressing it. In bytes.
const (
	maxUnpacked = 4 << 30
	maxControl  = 64 << 20
	maxWindow   = 128 << 20
)

// member finds a member of an ar archive by the start of its name, and returns the
// rest of the name and the content. deb(5) uses the common format, without long names.
func member(r io.ReaderAt, size int64, prefix string) (string, *io.SectionReader, error) {
	const magic, headerSize = "!<arch>\n", 60
	head := make([]byte, headerSize)
	if _, err := r.ReadAt(head[:len(magic)], 0); err != nil || string(head[:len(magic)]) != magic {
		return "", nil, errors.New("not an ar archive")
	}
	for at := int64(len(magic)); at < size; {
		if _, err := r.ReadAt(head, at); err != nil {
			return "", nil, fmt.Errorf("ar header at byte %d: %w", at, noEOF(err))
		}
		n, err := strconv.ParseInt(strings.TrimRight(string(head[48:58]), " "), 10, 64)
		at += headerSize
		if err != nil || n < 0 || n > size-at || string(head[58:]) != "`\n" {
			return "", nil, fmt.Errorf("ar header at byte %d is damaged", at-headerSize)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(head[:16]), " "), "/")
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return rest, io.NewSectionReader(r, at, n), nil
		}
		at += n + n%2 // members are padded to even offsets
	}
	return "", nil, fmt.Errorf("no member %s", prefix)
}

// Control opens the control files of the package r, of size bytes, as a tar. Reading
// fails beyond a bound on the length, and when ctx ends.
func Control(ctx context.Context, r io.ReaderAt, size int64) (io.Reader, error) {
	return debTar(ctx, r, size, "control.tar", maxControl)
}

// Data opens the files of the package r, of size bytes, as a tar. Reading fails beyond
// a bound on the length, and when ctx ends.
func Data(ctx context.Context, r io.ReaderAt, size int64) (io.Reader, error) {
	return debTar(ctx, r, size, "data.tar", maxUnpacked)
}

// EachFile calls do with each entry of the package at file, by its path without a slash in
// front. More entries than most are an error.
func EachFile(ctx context.Context, file string, most int, do func(name string, h *tar.Header, r io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	data, err := Data(ctx, f, info.Size())
	if err != nil {
		return err
	}
	entries := tar.NewReader(data)
	for n := 0; ; n++ {
		h, err := entries.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("package entry %d: %w", n, err)
		}
		if n == most {
			return fmt.Errorf("more than %d entries", most)
		}
		if err := do(path.Clean("/" + h.Name)[1:], h, entries); err != nil {
			return fmt.Errorf("package entry %.200q: %w", h.Name, err)
		}
	}
}

// debTar opens one of the two archives in a .deb.
func debTar(ctx context.Context, r io.ReaderAt, size int64, which string, most int64) (io.Reader, error) {
	_, version, err := member(r, size, "debian-binary")
	if err != nil {
		return nil, err
	}
	if v, err := io.ReadAll(io.LimitReader(version, 64)); err != nil || !bytes.HasPrefix(v, []byte("2.")) {
		return nil, fmt.Errorf("package format %.20q, not 2.0", v)
	}
	suffix, data, err := member(r, size, which)
	if err != nil {
		return nil, err
	}
	unpacked, err := Decompress(suffix, data)
	return &bounded{ctx, unpacked, most}, err
}

// Decompress decompresses r. suffix is that of the file's name: ".xz", ".gz", ".zst",
// or "" for a file that isn't compressed.
func Decompress(suffix string, r io.Reader) (io.Reader, error) {
	switch suffix {
	case "":
		return r, nil
	case ".xz":
		return xz.NewReader(bufio.NewReaderSize(r, 64<<10), maxWindow)
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		// It needn't be closed: without concurrency it has no goroutines.
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	}
	return nil, fmt.Errorf("unknown compression %.20q", suffix)
}

// noEOF makes io.ErrUnexpectedEOF of io.EOF, which callers would take for success.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

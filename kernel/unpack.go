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
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"banger/kmod"
)

// Bounds of an unpacked package: ten times Debian's largest kernel.
const (
	maxUnpacked = 4 << 30
	maxEntries  = 100_000
	maxBzImage  = 128 << 20
	maxConfig   = 4 << 20
)

// member finds a member of an ar archive by the start of its name (deb(5)
// uses the common format without long names) and returns the name's rest and
// the content.
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

// dataTar opens the file system part of a .deb.
func dataTar(r io.ReaderAt, size int64) (io.Reader, error) { return debTar(r, size, "data.tar") }

// debTar opens one of the two archives in a .deb.
func debTar(r io.ReaderAt, size int64, which string) (io.Reader, error) {
	_, version, err := member(r, size, "debian-binary")
	if err != nil {
		return nil, err
	}
	if v, err := readAtMost(version, 64); err != nil || !bytes.HasPrefix(v, []byte("2.")) {
		return nil, fmt.Errorf("package format %.20q, not 2.0", v)
	}
	suffix, data, err := member(r, size, which)
	if err != nil {
		return nil, err
	}
	return opened(suffix, data)
}

// opened decompresses by the suffix of a file name.
func opened(suffix string, r io.Reader) (io.Reader, error) {
	switch suffix {
	case "":
		return r, nil
	case ".xz":
		return xz.NewReader(bufio.NewReaderSize(r, 64<<10)) // it asks for single bytes
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		// Closed by its last byte: without concurrency it holds nothing but memory.
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	}
	return nil, fmt.Errorf("unknown compression %.20q", suffix)
}

// contents is what unpack found.
type contents struct {
	version string // of the kernel: uname -r
	vmlinux []byte // uncompressed
}

var versionName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~_-]*$`)

// unpack takes a kernel out of a package: the image is returned, modules and
// configuration go below root, as modules/… and config. Compressed modules are
// stored uncompressed: every modprobe reads those, and emulation has no time
// for xz. Anything else in the package is left alone.
func unpack(ctx context.Context, r io.ReaderAt, size int64, root *os.Root) (contents, error) {
	var c contents
	data, err := dataTar(r, size)
	if err != nil {
		return c, err
	}
	entries := tar.NewReader(&bounded{ctx, data, maxUnpacked})
	for n := 0; ; n++ {
		h, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return c, fmt.Errorf("package entry %d: %w", n, noEOF(err))
		}
		if n == maxEntries {
			return c, fmt.Errorf("more than %d entries", maxEntries)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := c.take(path.Clean("/" + h.Name)[1:], entries, root); err != nil {
			return c, fmt.Errorf("package entry %.200q: %w", h.Name, err)
		}
	}
	if c.version == "" || c.vmlinux == nil {
		return c, errors.New("the package has no boot/vmlinuz-VERSION with modules beside it")
	}
	return c, nil
}

func (c *contents) take(name string, r io.Reader, root *os.Root) error {
	if v, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok {
		if err := c.setVersion(v); err != nil {
			return err
		}
		image, err := readAtMost(r, maxBzImage)
		if err != nil {
			return err
		}
		c.vmlinux, err = Vmlinux(image)
		return err
	}
	if strings.HasPrefix(name, "boot/config-") {
		return store(root, "config", r, maxConfig)
	}
	file, ok := strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/")
	if !ok {
		return nil
	}
	v, file, ok := strings.Cut(file, "/")
	if err := c.setVersion(v); err != nil || !ok {
		return err
	}
	if ext := path.Ext(file); strings.HasSuffix(strings.TrimSuffix(file, ext), ".ko") {
		plain, err := opened(ext, r)
		if err != nil {
			return err
		}
		r, file = plain, strings.TrimSuffix(file, ext)
	}
	return store(root, filepath.Join("modules", file), r, kmod.MaxModule)
}

func (c *contents) setVersion(v string) error {
	if !versionName.MatchString(v) || c.version != "" && c.version != v {
		return fmt.Errorf("kernel version %.80q where %q was expected", v, c.version)
	}
	c.version = v
	return nil
}

// store writes one file; root sees to it that it stays inside.
func store(root *os.Root, name string, r io.Reader, max int64) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(r, max+1))
	if err == nil && n > max {
		err = fmt.Errorf("larger than %d bytes", max)
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// noEOF says that an end was not expected: io.EOF alone reads like success.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

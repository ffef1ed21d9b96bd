// Package tartree makes a tar of a tree of files, and a tree of a tar. It is used in guests
// and on the host, where a guest's tar isn't trusted.
//
// It knows nothing of where a tar comes from or who asked for it. Sizes are in bytes.
package tartree

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// bufferSize is the most that is read of a file at a time.
const bufferSize = 128 << 10

// inode tells hard links apart from copies.
type inode struct{ dev, ino uint64 }

// archiver writes one tree.
type archiver struct {
	w       *tar.Writer
	links   map[inode]string // first name of every file that has several
	buf     []byte
	changed string // a file that shrank while it was read
}

// Name is how the names in a tar of a path begin: with its last element, or with "." if the
// path ends in "/.", which stands for a directory's content.
func Name(path string) string {
	base := filepath.Base(path)
	if strings.HasSuffix(path, "/.") || base == "/" || base == ".." {
		return "."
	}
	return base
}

// Pack writes a tar of a file or directory, under its Name. It doesn't follow symbolic
// links, and leaves out sockets, as nobody could listen on a copy.
func Pack(w io.Writer, path string) error { return PackWithout(w, path, "") }

// PackWithout is Pack, but leaves out what has this name, at any depth; "" leaves out
// nothing.
func PackWithout(w io.Writer, path, name string) error {
	top, base := filepath.Clean(path), Name(path)
	b := bufio.NewWriterSize(w, bufferSize)
	a := &archiver{w: tar.NewWriter(b), links: make(map[inode]string), buf: make([]byte, bufferSize)}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name != "" && d.Name() == name {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		return a.add(path, filepath.Join(base, rel), d)
	})
	if err != nil {
		return err
	}
	if err := errors.Join(a.w.Close(), b.Flush()); err != nil {
		return err
	}
	if a.changed != "" {
		return fmt.Errorf("%s shrank while it was read", a.changed)
	}
	return nil
}

func (a *archiver) add(path, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted meanwhile
	}
	if err != nil || info.Mode().Type() == fs.ModeSocket {
		return err
	}
	target := ""
	if info.Mode().Type() == fs.ModeSymlink {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	h.Name, h.Format = name, tar.FormatPAX // PAX alone keeps nanoseconds and any name
	if info.IsDir() {
		h.Name += "/"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && !info.IsDir() && st.Nlink > 1 {
		key := inode{uint64(st.Dev), st.Ino}
		if first, seen := a.links[key]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			a.links[key] = name
		}
	}
	if h.Typeflag != tar.TypeReg {
		return a.w.WriteHeader(h)
	}
	return a.file(path, h)
}

// file writes a regular file with the size in its header. A file that shrinks meanwhile is
// filled up with zeros and reported; what one grows by is left out.
func (a *archiver) file(path string, h *tar.Header) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := a.w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{a.w}, io.LimitReader(f, h.Size), a.buf)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if n < h.Size {
		a.changed = path
		_, err = io.CopyBuffer(struct{ io.Writer }{a.w}, io.LimitReader(zeros{}, h.Size-n), a.buf)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Package tartree makes a tar of a tree of files, and a tree of a tar: in a guest
// and on its host, where what a guest sent isn't believed.
//
// It refuses to know where a tar comes from and who asked for it.
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

// bufferSize is what one read of a file's content takes.
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

// Name is what the names in a tar of a path begin with: its last element, or "."
// for what is in a directory, which a path that ends in /. stands for.
func Name(path string) string {
	base := filepath.Base(path)
	if strings.HasSuffix(path, "/.") || base == "/" || base == ".." {
		return "."
	}
	return base
}

// Pack writes a tar of a file or directory, under its Name. A symbolic link is
// written, not followed. Sockets are left out: nobody could listen on a copy.
func Pack(w io.Writer, path string) error {
	top, base := filepath.Clean(path), Name(path)
	b := bufio.NewWriterSize(w, bufferSize)
	a := &archiver{w: tar.NewWriter(b), links: make(map[inode]string), buf: make([]byte, bufferSize)}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
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

// file writes a regular file of the size its header says: one that shrinks is
// filled up with zeros and reported, what one grows is left for the next time.
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

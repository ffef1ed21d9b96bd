package tool

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// extractor unpacks below one directory. All names go through an os.Root, which
// the kernel resolves step by step: no symbolic link, found or unpacked, leads
// out of it.
type extractor struct {
	root *os.Root
	dirs []dirTimes // set at the end: a directory may be read-only, and its time changes with its entries
	buf  []byte
}

type dirTimes struct {
	name  string
	mode  fs.FileMode
	mtime time.Time
}

// readTar unpacks a tar below a directory, which is created. What is in the
// way of an entry is replaced, but for a directory that isn't empty. Files belong
// to the user who runs this. Devices and FIFOs are refused.
func readTar(args []string, in io.Reader, _ io.Writer) error {
	if len(args) != 1 {
		return errors.New("one directory, please")
	}
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return err
	}
	syscall.Umask(0) // modes are the archive's
	root, err := os.OpenRoot(args[0])
	if err != nil {
		return err
	}
	defer root.Close()
	x := &extractor{root: root, buf: make([]byte, bufferSize)}
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("the archive: %w", err)
		}
		if err := x.entry(h, r); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	if err := x.finishDirs(); err != nil {
		return err
	}
	// Padding behind the archive's end: who writes it shall not see a closed pipe.
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, in, x.buf)
	return err
}

func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	name, err := local(h.Name)
	if err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	if h.Typeflag == tar.TypeDir {
		return x.dir(name, mode, h.ModTime)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name == "." {
		return errors.New("only a directory can be the top")
	}
	if err := x.clear(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return x.file(name, mode, h.ModTime, r)
	case tar.TypeSymlink:
		return x.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		old, err := local(h.Linkname)
		if err != nil {
			return fmt.Errorf("link to %q: %w", h.Linkname, err)
		}
		return x.root.Link(old, name)
	}
	return fmt.Errorf("entries of type %q can't be unpacked", h.Typeflag)
}

// local returns the name below the root, refusing any that isn't.
func local(name string) (string, error) {
	clean := strings.TrimRight(name, "/")
	if clean == "" && name != "" || !filepath.IsLocal(clean) {
		return "", errors.New("not a name below the directory")
	}
	return filepath.Clean(clean), nil
}

// clear makes the way free for an entry: its parents exist, it doesn't.
func (x *extractor) clear(name string) error {
	err := x.root.Remove(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return x.root.MkdirAll(filepath.Dir(name), 0o755)
}

func (x *extractor) dir(name string, mode fs.FileMode, mtime time.Time) error {
	if st, err := x.root.Lstat(name); err != nil || !st.IsDir() {
		if err := x.clear(name); err != nil {
			return err
		}
		if err := x.root.Mkdir(name, 0o700); err != nil {
			return err
		}
	}
	x.dirs = append(x.dirs, dirTimes{name, mode, mtime})
	return nil
}

func (x *extractor) file(name string, mode fs.FileMode, mtime time.Time, r io.Reader) error {
	f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, r, x.buf)
	if err == nil {
		err = f.Chmod(permissions(mode))
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return x.root.Chtimes(name, mtime, mtime)
}

func (x *extractor) finishDirs() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		d := x.dirs[i]
		// A later entry may have replaced it: its mode is not that one's.
		if st, err := x.root.Lstat(d.name); err != nil || !st.IsDir() {
			continue
		}
		if err := x.root.Chmod(d.name, permissions(d.mode)); err != nil {
			return fmt.Errorf("entry %q: %w", d.name, err)
		}
		if err := x.root.Chtimes(d.name, d.mtime, d.mtime); err != nil {
			return fmt.Errorf("entry %q: %w", d.name, err)
		}
	}
	return nil
}

func permissions(m fs.FileMode) fs.FileMode {
	return m & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}

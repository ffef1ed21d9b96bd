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
	"time"

	"golang.org/x/sys/unix"
)

// Place is where a tree goes: below Dir, which must be there. Names are as they
// come, or begin with From, in whose place As stands.
type Place struct {
	Dir, From, As string
	// Keep leaves directories that are there as they are, and refuses what is of
	// another kind than what stands in its place; else that is replaced, but for a
	// directory that isn't empty.
	Keep bool
	// Foreign is a tar of somebody who isn't trusted with what is below Dir: nothing
	// is reached through a symbolic link, no program will run as its owner, and a
	// file takes no more room than its bytes in the tar.
	Foreign bool
}

// At says where a copy of a tree of this Name goes if cp makes it: below dest
// where that is a directory, else to dest, in a directory that is there. For what
// is in a directory, dest is made.
func At(dest, name string) (Place, error) {
	info, err := os.Stat(dest)
	switch {
	case err == nil && info.IsDir() && name == ".":
		return Place{Dir: dest, Keep: true}, nil
	case err == nil && info.IsDir():
		return Place{Dir: dest, From: name, As: name, Keep: true}, nil
	case err == nil && name == ".":
		return Place{}, fmt.Errorf("%s is no directory", dest)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return Place{}, err
	case err != nil && strings.HasSuffix(dest, "/"):
		return Place{}, fmt.Errorf("there is no directory %s", dest)
	}
	parent, as := filepath.Split(filepath.Clean(dest))
	if parent == "" {
		parent = "."
	}
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		return Place{}, fmt.Errorf("there is no directory %s", parent)
	}
	if name == "." {
		return Place{Dir: dest, Keep: true}, os.Mkdir(dest, 0o755)
	}
	return Place{Dir: parent, From: name, As: as, Keep: true}, nil
}

// extractor unpacks into one place. All names go through an os.Root, which the
// kernel resolves step by step: no symbolic link, found or unpacked, leads out.
type extractor struct {
	Place
	root *os.Root
	in   *os.Root   // the directory of the latest entry, so that those beside it are found in one step
	at   string     // its name; in is nil: none
	fd   *os.File   // the same directory
	dirs []dirTimes // set at the end: a directory may be read-only, and its time changes with its entries
	buf  []byte
}

type dirTimes struct {
	name  string
	mode  fs.FileMode
	mtime time.Time
}

// Unpack makes a tree of a tar. A file that is replaced is so when the new one is
// whole. Files belong to the user who runs this. Devices and FIFOs are refused.
func Unpack(r io.Reader, place Place) error {
	root, err := os.OpenRoot(place.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	x := &extractor{Place: place, root: root, buf: make([]byte, bufferSize)}
	defer x.leave()
	r = bufio.NewReaderSize(r, bufferSize) // package tar reads by its blocks, of 512 bytes
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("the archive: %w", err)
		}
		if err := x.entry(h, t); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	if err := x.finishDirs(); err != nil {
		return err
	}
	// Padding behind the archive's end: who writes it shall not see a closed pipe.
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, x.buf)
	return err
}

func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := x.local(h.Name)
	if err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	if h.Typeflag == tar.TypeDir {
		return x.dir(name, mode, h.ModTime)
	}
	if name == "." {
		return errors.New("only a directory can be the top")
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if x.Foreign && sparse(h) {
			return errors.New("it is sparse, which no tar of a guest's is")
		}
		return x.put(name, func(as string) error { return x.file(as, mode, h.ModTime, r) })
	case tar.TypeSymlink:
		return x.put(name, func(as string) error { return x.in.Symlink(h.Linkname, as) })
	case tar.TypeLink:
		old, err := x.local(h.Linkname)
		if err == nil {
			err = x.parents(old)
		}
		if err != nil {
			return fmt.Errorf("link to %q: %w", h.Linkname, err)
		}
		return x.put(name, func(as string) error {
			return x.root.Link(old, filepath.Join(filepath.Dir(name), as))
		})
	}
	return fmt.Errorf("entries of type %q can't be unpacked", h.Typeflag)
}

// sparse says whether a file has holes that aren't in the tar (GNU tar manual,
// "Storing Sparse Files").
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// local returns the name below the root, refusing any that isn't.
func (x *extractor) local(name string) (string, error) {
	clean := strings.TrimRight(name, "/")
	if clean == "" && name != "" || !filepath.IsLocal(clean) {
		return "", errors.New("not a name below the directory")
	}
	clean = filepath.Clean(clean)
	if x.From == "" {
		return clean, nil
	}
	first, rest, _ := strings.Cut(clean, "/")
	if first != x.From {
		return "", fmt.Errorf("not of %s, which was asked for", x.From)
	}
	return filepath.Join(x.As, rest), nil
}

// parents makes the directories above a name.
func (x *extractor) parents(name string) error {
	dir := filepath.Dir(name)
	if !x.Foreign {
		return x.root.MkdirAll(dir, 0o755)
	}
	if dir == "." {
		return nil
	}
	st, err := x.root.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := x.parents(dir); err != nil {
			return err
		}
		return x.root.Mkdir(dir, 0o755)
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("%s is no directory", dir)
	}
	return x.parents(dir)
}

// enter opens the directory of a name, which is made.
func (x *extractor) enter(name string) error {
	dir := filepath.Dir(name)
	if x.in != nil && x.at == dir {
		return nil
	}
	if err := x.parents(name); err != nil {
		return err
	}
	x.leave()
	in, err := x.root.OpenRoot(dir)
	if err != nil {
		return err
	}
	fd, err := in.Open(".")
	if err != nil {
		return errors.Join(err, in.Close())
	}
	x.in, x.at, x.fd = in, dir, fd
	return nil
}

func (x *extractor) leave() {
	if x.in != nil {
		_, _ = x.in.Close(), x.fd.Close() // of a directory that was only looked up in
		x.in = nil
	}
}

// put has make make what is to have a name in its directory. What stands there
// already is replaced by one that was made beside it.
func (x *extractor) put(name string, make func(as string) error) error {
	if err := x.enter(name); err != nil {
		return err
	}
	base := filepath.Base(name)
	if err := make(base); !errors.Is(err, fs.ErrExist) {
		return err
	}
	if st, err := x.in.Lstat(base); err == nil && st.IsDir() {
		if x.Keep {
			return errors.New("a directory is in its place")
		}
		if err := x.in.Remove(base); err != nil {
			return err
		}
	}
	fresh := fmt.Sprintf(".banger-%d", os.Getpid())
	_ = x.in.Remove(fresh) // of one who had our number, and was killed
	err := make(fresh)
	if err == nil {
		err = x.in.Rename(fresh, base)
	}
	_ = x.in.Remove(fresh) // gone, but for an error, and a link to what was there already (rename(2))
	return err
}

func (x *extractor) dir(name string, mode fs.FileMode, mtime time.Time) error {
	if err := x.enter(name); err != nil {
		return err
	}
	base := filepath.Base(name)
	err := x.in.Mkdir(base, 0o700)
	if errors.Is(err, fs.ErrExist) {
		var st fs.FileInfo
		st, err = x.in.Lstat(base)
		switch {
		case err != nil:
		case st.IsDir() && x.Keep:
			return nil
		case st.IsDir():
		case x.Keep:
			return errors.New("something that is no directory is in its place")
		default:
			if err = x.in.Remove(base); err == nil {
				err = x.in.Mkdir(base, 0o700)
			}
		}
	}
	if err == nil {
		x.dirs = append(x.dirs, dirTimes{name, mode, mtime})
	}
	return err
}

// file writes a regular file that isn't there yet, or takes it back. The name is
// one of the directory that is open: no link can be on the way, and package os would
// make eleven system calls of these five.
func (x *extractor) file(name string, mode fs.FileMode, mtime time.Time, r io.Reader) error {
	dir := int(x.fd.Fd())
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, r, x.buf)
	if err == nil {
		err = f.Chmod(x.permissions(mode))
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		t := unix.Timespec{Sec: mtime.Unix(), Nsec: int64(mtime.Nanosecond())}
		err = unix.UtimesNanoAt(dir, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		err = errors.Join(err, x.in.Remove(name))
	}
	return err
}

func (x *extractor) finishDirs() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		d := x.dirs[i]
		// A later entry may have replaced it: its mode is not that one's.
		if st, err := x.root.Lstat(d.name); err != nil || !st.IsDir() {
			continue
		}
		if err := x.root.Chmod(d.name, x.permissions(d.mode)); err != nil {
			return fmt.Errorf("entry %q: %w", d.name, err)
		}
		if err := x.root.Chtimes(d.name, d.mtime, d.mtime); err != nil {
			return fmt.Errorf("entry %q: %w", d.name, err)
		}
	}
	return nil
}

func (x *extractor) permissions(m fs.FileMode) fs.FileMode {
	if x.Foreign {
		return m & fs.ModePerm
	}
	return m & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}

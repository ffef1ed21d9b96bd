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
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Place is where a tree goes: below Dir, which must exist. Names are used as they are, or,
// with From set, must begin with From, which is replaced by As.
type Place struct {
	Dir, From, As string
	// With Keep, directories that exist stay as they are, and an entry of another kind than
	// what has its name is an error. Without it, what has the name is replaced, unless it is
	// a directory that isn't empty.
	Keep bool
	// Foreign is a tar that isn't trusted: symbolic links are never followed, set-user-ID
	// bits are dropped, a file takes no more room than its bytes in the tar, FIFOs are left
	// out, the umask applies to permissions, and the filesystem isn't filled up.
	Foreign bool
}

// At says where cp would put a copy of a tree of this Name: below dest if that is a
// directory, else at dest, whose parent must exist. For the content of a directory, dest is
// made.
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

// Bounds of names, so that every program can open what is unpacked.
const (
	maxName  = 4095 // bytes, PATH_MAX without its end
	maxDepth = 256  // elements
	// For a foreign tar: the bytes of all its directories' names, which are kept to the end,
	// and how many bytes are written between two looks at the free room.
	maxDirNames = 64 << 20
	roomEvery   = 16 << 20 // bytes
	roomEntries = 256
	// How many bytes a foreign tar leaves free; on a small filesystem a twentieth.
	roomLeft = 512 << 20
)

// extractor unpacks into one place. All names go through an os.Root, which the
// kernel resolves step by step: no symbolic link, found or unpacked, leads out.
type extractor struct {
	Place
	root *os.Root
	in   *os.Root   // the directory of the latest entry, so that its neighbours are found in one step
	at   string     // its name; in is nil: none
	fd   *os.File   // the same directory
	dirs []dirTimes // set at the end: a directory may be read-only, and its time changes with its entries
	buf  []byte

	// Of a foreign tar.
	path     []step // the directories from the top to in, each found in the one before
	umask    fs.FileMode
	dirNames int   // bytes in the names of dirs
	unseen   int64 // bytes since there was room
	entries  int
}

// step is one directory on the way to the latest entry.
type step struct {
	name string
	root *os.Root
}

type dirTimes struct {
	name  string
	mode  fs.FileMode
	mtime time.Time
}

// Unpack makes a tree of a tar. A file is replaced only once the new one is complete. Files
// belong to the user who runs this. Devices are refused.
func Unpack(r io.Reader, place Place) error {
	root, err := os.OpenRoot(place.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	x := &extractor{Place: place, root: root, buf: make([]byte, bufferSize)}
	if place.Foreign {
		if x.umask, err = umask(); err != nil {
			return err
		}
	}
	defer x.forget(0)
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
	// Read the padding after the archive's end, so that its writer doesn't see a closed pipe.
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
	if x.entries++; x.Foreign && x.entries%roomEntries == 1 {
		if err := x.room(); err != nil {
			return err
		}
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
			return errors.New("it is sparse, and guests make no such tars")
		}
		return x.put(name, func(as string) error { return x.file(as, mode, h.ModTime, r) })
	case tar.TypeSymlink:
		return x.put(name, func(as string) error {
			if err := x.in.Symlink(h.Linkname, as); err != nil {
				return err
			}
			return x.setTime(as, h.ModTime)
		})
	case tar.TypeFifo:
		if x.Foreign {
			return nil // a program that opens it would wait for a writer
		}
		return x.put(name, func(as string) error {
			err := unix.Mknodat(int(x.fd.Fd()), as, unix.S_IFIFO|uint32(mode.Perm()), 0)
			if err != nil {
				return &fs.PathError{Op: "mkfifo", Path: as, Err: err}
			}
			return x.setTime(as, h.ModTime)
		})
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

// sparse reports whether a file has holes that aren't in the tar (GNU tar manual,
// "Storing Sparse Files").
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// local returns the name below the root. It refuses names that lead out of it.
func (x *extractor) local(name string) (string, error) {
	if len(name) > maxName || strings.Count(name, "/") > maxDepth {
		return "", fmt.Errorf("a name of %d bytes and %d elements is too long", len(name), strings.Count(name, "/")+1)
	}
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
		return "", fmt.Errorf("it isn't part of %s, which was asked for", x.From)
	}
	return filepath.Join(x.As, rest), nil
}

// parents makes the directories above a name.
func (x *extractor) parents(name string) error {
	dir := filepath.Dir(name)
	if x.Foreign {
		_, err := x.walk(dir)
		return err
	}
	return x.root.MkdirAll(dir, 0o755)
}

// walk opens a directory of a foreign tar, element by element; a symbolic link is an error.
// It begins with the elements that the latest directory has in common with this one, so
// that a deep tree isn't walked from the top for each file.
func (x *extractor) walk(dir string) (*os.Root, error) {
	var names []string
	if dir != "." {
		names = strings.Split(dir, "/")
	}
	same := 0
	for same < len(names) && same < len(x.path) && x.path[same].name == names[same] {
		same++
	}
	x.forget(same)
	in := x.root
	if same > 0 {
		in = x.path[same-1].root
	}
	for i, name := range names[same:] {
		st, err := in.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			if err = in.Mkdir(name, 0o755); err == nil {
				st, err = in.Lstat(name)
			}
		}
		if err != nil {
			return nil, err
		}
		if !st.IsDir() {
			return nil, fmt.Errorf("%s is no directory", strings.Join(names[:same+i+1], "/"))
		}
		next, err := in.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		x.path = append(x.path, step{name, next})
		in = next
	}
	return in, nil
}

// forget closes the steps after the first n.
func (x *extractor) forget(n int) {
	for _, s := range x.path[n:] {
		_ = s.root.Close() // of a directory that was only looked up in
	}
	x.path = x.path[:n]
}

// enter opens the directory of a name, and makes it when missing.
func (x *extractor) enter(name string) error {
	dir := filepath.Dir(name)
	if x.in != nil && x.at == dir {
		return nil
	}
	from, rest := x.root, dir
	if err := x.parents(name); err != nil {
		return err
	}
	if n := len(x.path); n > 0 {
		from, rest = x.path[n-1].root, "."
	}
	x.leave()
	in, err := from.OpenRoot(rest)
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

// room returns an error when the filesystem is about to be full.
func (x *extractor) room() error {
	dir, err := x.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	left := min(roomLeft, int64(st.Blocks)*st.Bsize/20)
	if free := int64(st.Bavail) * st.Bsize; free < left {
		return fmt.Errorf("the filesystem of %s has %d MiB left, and keeps %d", x.Dir, free>>20, left>>20)
	}
	x.unseen = 0
	return nil
}

// Write counts what a foreign tar's files take.
func (x *extractor) Write(p []byte) (int, error) {
	if x.unseen += int64(len(p)); x.unseen > roomEvery {
		if err := x.room(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// umask reads this process' umask from proc_pid_status(5), the only way to read it without
// changing it.
func umask() (fs.FileMode, error) {
	raw, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), "\nUmask:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseUint(strings.TrimSpace(line), 8, 32)
	if err != nil {
		return 0, fmt.Errorf("the umask in /proc/thread-self/status: %w", err)
	}
	return fs.FileMode(n), nil
}

func (x *extractor) leave() {
	if x.in != nil {
		_, _ = x.in.Close(), x.fd.Close() // of a directory that was only looked up in
		x.in = nil
	}
}

// put calls make to make something under a name in its directory. If the name is taken, it
// makes it under another name and then replaces the old one.
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
	_ = x.in.Remove(fresh) // left by a process of the same PID that was killed
	err := make(fresh)
	if err == nil {
		err = x.in.Rename(fresh, base)
	}
	_ = x.in.Remove(fresh) // it is still there after an error, or if both names were links to one file (rename(2))
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
	if err == nil && x.Foreign {
		if x.dirNames += len(name); x.dirNames > maxDirNames {
			return errors.New("there are too many directories")
		}
	}
	if err == nil {
		x.dirs = append(x.dirs, dirTimes{name, mode, mtime})
	}
	return err
}

// file writes a regular file that doesn't exist yet; on error it removes it. It uses the
// open directory, so no link can be on the way. These are five system calls; package os
// would make eleven.
func (x *extractor) file(name string, mode fs.FileMode, mtime time.Time, r io.Reader) error {
	dir := int(x.fd.Fd())
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if x.Foreign {
		r = io.TeeReader(r, x)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, r, x.buf)
	if err == nil {
		err = f.Chmod(x.permissions(mode))
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = x.setTime(name, mtime)
	}
	if err != nil {
		err = errors.Join(err, x.in.Remove(name))
	}
	return err
}

// setTime sets the times of what was made in the open directory, of a link itself.
func (x *extractor) setTime(name string, mtime time.Time) error {
	t := unix.Timespec{Sec: mtime.Unix(), Nsec: int64(mtime.Nanosecond())}
	if err := unix.UtimesNanoAt(int(x.fd.Fd()), name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "set the time of", Path: name, Err: err}
	}
	return nil
}

func (x *extractor) finishDirs() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		d := x.dirs[i]
		// A later entry may have replaced the directory: then leave its mode alone.
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
		return m & fs.ModePerm &^ x.umask
	}
	return m & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}

package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// Store keeps images as files <id>.erofs in a directory of its own; it
// implements banger.Images. Several processes may use one directory.
type Store struct {
	Dir string // made when missing, 0700
}

const (
	imageSuffix = ".erofs"
	tempPrefix  = ".import-" // locked by flock(2) for as long as its import lives
)

// Import is that of banger.Images, with the bounds and errors of Write. The
// image's Name and Source are the caller's to fill in.
func (s *Store) Import(ctx context.Context, tar io.Reader, p banger.Progress) (banger.Image, error) {
	f, err := s.temp()
	if err != nil {
		return banger.Image{}, fmt.Errorf("make a file for the image: %w", err)
	}
	defer f.Close()
	img, err := s.fill(ctx, f, tar, p)
	if err != nil {
		return banger.Image{}, errors.Join(err, os.Remove(f.Name()))
	}
	return img, nil
}

func (s *Store) fill(ctx context.Context, f *os.File, tar io.Reader, p banger.Progress) (banger.Image, error) {
	stats, err := Write(ctx, tar, f, p)
	if err != nil {
		return banger.Image{}, err
	}
	id, err := contentID(ctx, f)
	if err != nil {
		return banger.Image{}, err
	}
	if err := errors.Join(f.Chmod(0o400), f.Sync()); err != nil {
		return banger.Image{}, fmt.Errorf("save image: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return banger.Image{}, banger.Errorf(banger.CodeCanceled, "import: %w", err)
	}
	if err := os.Rename(f.Name(), s.path(id)); err != nil {
		return banger.Image{}, fmt.Errorf("publish image: %w", err)
	}
	img := banger.Image{ID: id, Size: stats.Size, Entries: stats.Entries, Created: time.Now()}
	return img, s.sync()
}

// temp makes a locked file. Clean, in another process, may see it before the
// lock is there and take it away: then another one is made.
func (s *Store) temp() (*os.File, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	for {
		f, err := os.CreateTemp(s.Dir, tempPrefix)
		if err != nil {
			return nil, err
		}
		locked := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
		if _, err := os.Lstat(f.Name()); locked && err == nil {
			return f, nil
		}
		f.Close()
	}
}

// Clean removes what dead imports left behind. Living ones aren't touched.
func (s *Store) Clean() error {
	files, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), tempPrefix) {
			continue
		}
		if rm := removeUnlocked(filepath.Join(s.Dir, f.Name())); !errors.Is(rm, fs.ErrNotExist) {
			err = errors.Join(err, rm)
		}
	}
	if err != nil {
		return fmt.Errorf("clean up image directory: %w", err)
	}
	return nil
}

func removeUnlocked(name string) error {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	return os.Remove(name)
}

// Path is that of banger.Images.
func (s *Store) Path(id string) (string, error) {
	if !validID(id) {
		return "", banger.Errorf(banger.CodeNotFound, "no image has the id %q", id)
	}
	if _, err := os.Stat(s.path(id)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", banger.Errorf(banger.CodeNotFound, "the file of image %s is missing", id)
		}
		return "", fmt.Errorf("look for image %s: %w", id, err)
	}
	return s.path(id), nil
}

// Remove is that of banger.Images. VMs that run from the file keep it until
// they end.
func (s *Store) Remove(id string) error {
	if !validID(id) {
		return nil
	}
	if err := os.Remove(s.path(id)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	return s.sync()
}

// Sweep removes every image whose id isn't in keep. It is for whoever keeps the
// names of all images in this directory, and must not run beside an Import.
func (s *Store) Sweep(keep []string) error {
	files, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep image directory: %w", err)
	}
	for _, f := range files {
		id, ours := strings.CutSuffix(f.Name(), imageSuffix)
		if ours && f.Type().IsRegular() && validID(id) && !slices.Contains(keep, id) {
			err = errors.Join(err, s.Remove(id))
		}
	}
	return err
}

func (s *Store) path(id string) string { return filepath.Join(s.Dir, id+imageSuffix) }

// sync makes a change of names in the directory last.
func (s *Store) sync() error {
	d, err := os.Open(s.Dir)
	if err != nil {
		return fmt.Errorf("sync image directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync image directory: %w", err)
	}
	return nil
}

const idLen = 12

func validID(id string) bool {
	return len(id) == idLen && strings.Trim(id, "0123456789abcdef") == ""
}

// contentID hashes the whole image: it is written out of order, so it can't be
// hashed on its way.
func contentID(ctx context.Context, f *os.File) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return "", banger.Errorf(banger.CodeCanceled, "import: %w", err)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil))[:idLen], nil
		}
		if err != nil {
			return "", fmt.Errorf("read image back: %w", err)
		}
	}
}

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
	"banger/host/hostfs"
)

// Store keeps images as files <id>.erofs in a directory of its own; it implements
// banger.Images. Several processes may use one directory. Images of earlier builds, whose
// ids are shorter, can still be used.
type Store struct {
	Dir    string // made when missing, 0700
	Limits Limits // of imports
}

const (
	imageSuffix = ".erofs"
	tempPrefix  = ".import-" // such a file is locked by flock(2) while its import runs
)

// Import implements banger.Images, with the bounds and errors of Write. It leaves the
// image's Name and Source empty.
func (s *Store) Import(ctx context.Context, tar io.Reader, p banger.Progress) (banger.Image, error) {
	return s.make(ctx, func(f *os.File) (Stats, string, error) {
		stats, err := write(ctx, tar, f, p, s.Limits.whole())
		if err != nil {
			return stats, "", err
		}
		id, err := contentID(ctx, f)
		return stats, id, err
	})
}

// make publishes what write makes of a new file, under the id that it returns.
func (s *Store) make(ctx context.Context, write func(*os.File) (Stats, string, error)) (banger.Image, error) {
	f, err := s.temp()
	if err != nil {
		return banger.Image{}, fmt.Errorf("make a file for the image: %w", err)
	}
	defer f.Close()
	stats, id, err := write(f)
	if err == nil {
		err = s.finish(ctx, f, id)
	}
	if err != nil {
		return banger.Image{}, errors.Join(err, removeIfThere(f.Name()))
	}
	return banger.Image{ID: id, Size: stats.Size, Entries: stats.Entries, Created: time.Now()}, hostfs.SyncDir(s.Dir)
}

func (s *Store) finish(ctx context.Context, f *os.File, id string) error {
	if err := errors.Join(f.Chmod(0o400), f.Sync()); err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return banger.Errorf(banger.CodeCanceled, "import: %w", err)
	}
	if err := s.publish(f, id); err != nil {
		return fmt.Errorf("publish image: %w", err)
	}
	return nil
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// publish gives an image's file its name. If the same image is there already, it stays, as
// VMs may use it.
func (s *Store) publish(f *os.File, id string) error {
	err := os.Link(f.Name(), s.path(id))
	if err == nil || errors.Is(err, fs.ErrExist) {
		return os.Remove(f.Name())
	}
	// The filesystem has no hard links (FAT, some network filesystems). Another process may
	// take the name between the look and the rename, but only with the same content.
	if _, err := os.Lstat(s.path(id)); err == nil {
		return os.Remove(f.Name())
	}
	return os.Rename(f.Name(), s.path(id))
}

// temp makes a locked file. Another process's Clean may remove it before it is locked:
// then temp makes another one.
func (s *Store) temp() (*os.File, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	for {
		f, err := os.CreateTemp(s.Dir, tempPrefix)
		if err != nil {
			return nil, err
		}
		if hostfs.TryLock(f) == nil && hostfs.Named(f, f.Name()) {
			return f, nil
		}
		f.Close()
	}
}

// Scratch makes an empty file in the images' directory that has no name: it is gone when it
// is closed, whoever dies.
func (s *Store) Scratch() (*os.File, error) {
	f, err := s.temp()
	if err != nil {
		return nil, fmt.Errorf("make a file beside the images: %w", err)
	}
	return f, os.Remove(f.Name())
}

// Clean removes the files of imports that have died.
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
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if hostfs.TryLock(f) != nil {
		return nil
	}
	return os.Remove(name)
}

// Path implements banger.Images.
func (s *Store) Path(id string) (string, error) {
	if !banger.IsImageID(id) {
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

// Remove implements banger.Images. VMs that run from the file can use it until they end.
func (s *Store) Remove(id string) error {
	if !banger.IsImageID(id) {
		return nil
	}
	if err := os.Remove(s.path(id)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	return hostfs.SyncDir(s.Dir)
}

// Sweep removes every image whose id isn't in keep. Its caller must know the ids of all
// images in this directory that are in use, and may not call it during an Import.
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
		if ours && f.Type().IsRegular() && banger.IsImageID(id) && !slices.Contains(keep, id) {
			err = errors.Join(err, s.Remove(id))
		}
	}
	return err
}

func (s *Store) path(id string) string { return filepath.Join(s.Dir, id+imageSuffix) }

// contentID hashes the whole image. As it isn't written in order, it can't be hashed
// while it is written.
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
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", fmt.Errorf("read image back: %w", err)
		}
	}
}

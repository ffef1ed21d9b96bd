// Package hostfs is what several packages need of a filesystem: how much room it has
// left, files and names that survive a power cut, and locks. It knows nothing of what
// the files are for.
package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger"
)

const mib = 1 << 20

// Free returns how many MiB a user who isn't root may still write to the filesystem
// of f.
func Free(f *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("room of %s: %w", f.Name(), err)
	}
	return int64(st.Bavail) * st.Bsize / mib, nil
}

// Room returns CodeUnavailable when the filesystem of a disk has less than wantMiB MiB
// left. The guest could not write then.
func Room(disk *os.File, wantMiB int64) error {
	have, err := Free(disk)
	if err != nil {
		return err
	}
	if have < wantMiB {
		return banger.Errorf(banger.CodeUnavailable, "the filesystem of %s has %d MiB left, its guest needs %d: %w", disk.Name(), have, wantMiB, unix.ENOSPC).
			WithHint("the disk is full: make room and try again")
	}
	return nil
}

// SyncAll makes all that was written to a directory's filesystem durable (syncfs(2)).
func SyncAll(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
	}
	if err != nil {
		return fmt.Errorf("sync filesystem of %s: %w", dir, err)
	}
	return nil
}

// Replace replaces a file, durably: a reader finds the old content or the new one,
// after a power cut, too. One caller at a time may replace a file.
func Replace(path string, data []byte, mode os.FileMode) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes changes of names in a directory durable (fsync(2)).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// Remove removes files. It is no error if one doesn't exist.
func Remove(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

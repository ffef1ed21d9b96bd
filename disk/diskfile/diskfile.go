// Package diskfile makes the writable disks of VMs as ordinary files. Bases, which are
// empty ext4 filesystems of two sizes, are written once per host: this package has them,
// as mke2fs made them. A VM gets a copy of one, made by reflink or, where the host's
// filesystem can't do that, of the few used blocks. The copy is enlarged sparsely to the
// size wanted, and the guest grows the filesystem.
//
// It needs no privilege and no program of the host, owns the file "disk.ext4" in a VM's
// directory and the bases in its own directory, and knows nothing of what a VM is or
// whether it runs.
package diskfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/hostfs"
)

const (
	name     = "disk.ext4"     // the disk in a VM's directory
	nameTemp = "disk.ext4.new" // the disk until it is complete; overwritten, never read
	mib      = 1 << 20
)

// Disks is the driver of disks in files.
type Disks struct {
	Dir string // where bases are kept; made when missing
}

// Create makes DIR/disk.ext4. For any size it copies only the base's used blocks (some
// 100 KiB) and syncs once.
func (d Disks) Create(ctx context.Context, dir string, sizeMiB int) (string, error) {
	if sizeMiB < banger.MinDiskMiB || sizeMiB > banger.MaxDiskMiB {
		return "", banger.Errorf(banger.CodeInvalid, "a disk of %d MiB is out of bounds: %d to %d MiB", sizeMiB, banger.MinDiskMiB, banger.MaxDiskMiB)
	}
	return create(ctx, dir, sizeMiB, func() (*os.File, error) { return d.base(ctx, sizeMiB) })
}

// Clone makes DIR/disk.ext4 a copy of from, of the same size.
func (d Disks) Clone(ctx context.Context, dir, from string) (string, error) {
	st, err := os.Stat(from)
	if err != nil {
		return "", fmt.Errorf("clone disk: %w", err)
	}
	return create(ctx, dir, int(st.Size()/mib), func() (*os.File, error) { return os.Open(from) })
}

// create makes a disk from the file that base opens, unless there is a disk.
func create(ctx context.Context, dir string, sizeMiB int, base func() (*os.File, error)) (string, error) {
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("disk of %s: %w", dir, err)
	}
	src, err := base()
	if err != nil {
		return "", err
	}
	defer src.Close()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	temp := filepath.Join(dir, nameTemp)
	if err := clone(src, temp, sizeMiB); err != nil {
		_ = os.Remove(temp)
		return "", err
	}
	if err := os.Rename(temp, path); err != nil {
		return "", fmt.Errorf("name the disk of %s: %w", dir, err)
	}
	return path, hostfs.SyncDir(dir)
}

// Grow enlarges the disk sparsely, and makes sure that the guest, which is about to run,
// can write to it: if a write fails while the guest grows its filesystem, that can never
// be mounted again. CodeNotFound when there is no disk.
func (d Disks) Grow(_ context.Context, dir string, sizeMiB int) error {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return banger.Errorf(banger.CodeNotFound, "no disk in %s: %w", dir, err)
	} else if err != nil {
		return fmt.Errorf("grow disk: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("grow disk: %w", err)
	}
	if st.Size() > int64(sizeMiB)*mib || sizeMiB > banger.MaxDiskMiB {
		return banger.Errorf(banger.CodeInvalid, "disk %s has %d MiB: it can only grow, up to %[4]d MiB, not become %[3]d", path, st.Size()/mib, sizeMiB, banger.MaxDiskMiB)
	}
	if err := hostfs.Room(f, int64(leastRoom+sizeMiB>>14)); err != nil {
		return err
	}
	return resize(f, sizeMiB)
}

// Attach returns the path: a VMM opens the file itself.
func (d Disks) Attach(_ context.Context, _, dir string) (string, banger.Handles, error) {
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", banger.Handles{}, banger.Errorf(banger.CodeNotFound, "no disk in %s: %w", dir, err)
	} else if err != nil {
		return "", banger.Handles{}, fmt.Errorf("disk of %s: %w", dir, err)
	}
	return path, banger.Handles{}, nil
}

// Detach has nothing to do.
func (d Disks) Detach(context.Context, string, string, banger.Handles) (banger.Handles, error) {
	return banger.Handles{}, nil
}

// Remove deletes the disk and what an interrupted Create left.
func (d Disks) Remove(_ context.Context, dir string) error {
	for _, n := range []string{name, nameTemp} {
		if err := os.Remove(filepath.Join(dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove disk: %w", err)
		}
	}
	return nil
}

// clone makes a copy of the base at path. Its content is durable, its name isn't yet.
func clone(base *os.File, path string, sizeMiB int) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("create disk: %w", err)
	}
	defer f.Close()
	// FICLONE (ioctl_ficlone(2)) shares the blocks on btrfs, XFS and bcachefs. On any
	// error, copy: its errors differ from filesystem to filesystem.
	if unix.IoctlFileClone(int(f.Fd()), int(base.Fd())) != nil {
		if err := copySparse(f, base); err != nil {
			return fmt.Errorf("copy disk base to %s: %w", path, err)
		}
	}
	return resize(f, sizeMiB)
}

// copySparse copies the parts of src that aren't holes (lseek(2), SEEK_DATA).
func copySparse(dst, src *os.File) error {
	for off := int64(0); ; {
		data, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // no data after off
		} else if err != nil {
			return fmt.Errorf("seek data: %w", err)
		}
		if off, err = unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("seek hole: %w", err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, data), io.NewSectionReader(src, data, off-data)); err != nil {
			return err
		}
	}
}

// leastRoom, in MiB, must be free on a disk's filesystem for its guest to start. A new
// disk takes 5 when it is grown and systemd first starts; the bitmaps of larger ones
// take 64 more for each TiB.
const leastRoom = 16

// resize sets a disk's size and makes it durable.
func resize(f *os.File, sizeMiB int) error {
	if err := f.Truncate(int64(sizeMiB) * mib); errors.Is(err, unix.EFBIG) {
		// ext4 with 4 KiB blocks ends 4 KiB below 16 TiB.
		return banger.Errorf(banger.CodeInvalid, "the filesystem of %s can't hold a file of %d MiB: %w", f.Name(), sizeMiB, err)
	} else if err != nil {
		return fmt.Errorf("size disk: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync disk: %w", err)
	}
	return nil
}

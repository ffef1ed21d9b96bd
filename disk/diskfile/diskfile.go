// Package diskfile makes the writable disks of VMs as ordinary files: ext4 templates
// of two sizes are made once per host, and each VM gets a copy of one, by reflink
// where the host's filesystem can and else of its few used blocks, enlarged
// sparsely to the size wanted. The guest grows the filesystem to its device.
//
// It needs no privilege, owns the one file "disk.ext4" in a VM's directory and
// the templates in its own, and refuses to know what a VM is, whether it runs,
// or what a guest writes on its disk.
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
	"banger/hostfs"
)

const (
	name     = "disk.ext4"     // the disk in a VM's directory
	nameTemp = "disk.ext4.new" // the same while it isn't complete; overwritten, never read
	mib      = 1 << 20
)

// Disks is the driver of disks in files. The zero Mke2fs looks the program up.
type Disks struct {
	Dir    string // where templates are kept; made when missing
	Mke2fs string // path of mke2fs(8)
}

// Create makes DIR/disk.ext4. It costs one copy of the template's used blocks
// (some 100 KiB) and one fsync, whatever the size.
func (d Disks) Create(ctx context.Context, dir string, sizeMiB int) (string, error) {
	if sizeMiB < banger.MinDiskMiB || sizeMiB > banger.MaxDiskMiB {
		return "", banger.Errorf(banger.CodeInvalid, "a disk of %d MiB is out of bounds: %d to %d MiB", sizeMiB, banger.MinDiskMiB, banger.MaxDiskMiB)
	}
	return create(ctx, dir, sizeMiB, func() (*os.File, error) { return d.template(ctx, sizeMiB) })
}

// Clone makes DIR/disk.ext4 a copy of from, of the same size.
func (d Disks) Clone(ctx context.Context, dir, from string) (string, error) {
	st, err := os.Stat(from)
	if err != nil {
		return "", fmt.Errorf("clone disk: %w", err)
	}
	return create(ctx, dir, int(st.Size()/mib), func() (*os.File, error) { return os.Open(from) })
}

// create makes a disk of what template opens, unless there is one.
func create(ctx context.Context, dir string, sizeMiB int, template func() (*os.File, error)) (string, error) {
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("disk of %s: %w", dir, err)
	}
	src, err := template()
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

// Grow enlarges the disk sparsely, and makes sure that the guest, which is about
// to run, can write to it: a guest that grows its filesystem and can't write what
// that takes is left with one that nothing mounts. CodeNotFound when there is no disk.
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
		return banger.Errorf(banger.CodeInvalid, "disk %s holds %d MiB: it can't become %d MiB, only grow, up to %d", path, st.Size()/mib, sizeMiB, banger.MaxDiskMiB)
	}
	if err := hostfs.Room(f, int64(leastRoom+sizeMiB>>14)); err != nil {
		return err
	}
	return resize(f, sizeMiB)
}

// Attach has nothing to do: a VMM opens the file.
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

// clone makes a copy of the template at path, durable but for its name.
func clone(template *os.File, path string, sizeMiB int) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("create disk: %w", err)
	}
	defer f.Close()
	// FICLONE (ioctl_ficlone(2)) shares the blocks on btrfs, XFS and bcachefs. Its
	// refusals differ by filesystem, so any of them means: copy.
	if unix.IoctlFileClone(int(f.Fd()), int(template.Fd())) != nil {
		if err := copySparse(f, template); err != nil {
			return fmt.Errorf("copy disk template to %s: %w", path, err)
		}
	}
	return resize(f, sizeMiB)
}

// copySparse copies the parts of src that hold data (lseek(2), SEEK_DATA).
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

// leastRoom is what must be free beside a disk whose guest is to run, in MiB. A
// fresh one takes 5 for growing it and systemd's first start; the bitmaps of larger
// ones take 64 a TiB more.
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

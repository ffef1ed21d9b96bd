// Package dmsnap makes the writable disks of VMs as snapshots by device-mapper: one file,
// the base, has the filesystem that every disk begins as, and each VM has a file of its
// own with what it wrote. Making a disk makes two directory entries, for any size and on
// any filesystem of the host.
//
// A VM's directory has disk.base, a hard link to the base, which so lives as long as a
// disk needs it, and disk.cow, whose size gives the disk's. An attached disk has a
// read-only loop device on the base, which all VMs share, a loop device on disk.cow, and
// the device-mapper device that joins them
// (Documentation/admin-guide/device-mapper/snapshot.rst). None of that is written down:
// the kernel is asked, where a device's UUID and a loop's label say whose they are. The
// kernel clears a loop when nobody has it open any more, so whenever we die, at most the
// device-mapper device is left.
//
// It needs root. It never touches a device or a loop without such a mark, and doesn't
// attach a disk on whose file somebody else has a loop. It knows nothing of what a VM is
// or whether it runs.
//
// An attached disk takes up to 2 MiB of kernel memory. What a guest discards isn't given
// back to the host.
package dmsnap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/hostfs"
)

const (
	nameBase = "disk.base"    // in a VM's directory: the base of its disk
	nameCOW  = "disk.cow"     // what the VM wrote
	nameTemp = "disk.cow.new" // disk.cow until it is complete; overwritten, never read
	mib      = 1 << 20
)

// Disks is the driver. Its fields are set before use and never change.
type Disks struct {
	// Base makes the base: a sparse file of any size.
	Base banger.Disks
	// Dir is where the base is kept; made when missing. It must be on the same
	// filesystem as the VMs' directories.
	Dir string
	// Owner marks our devices: the path of the state directory.
	Owner string

	mu sync.Mutex // held to make the base, and to change loops
}

var (
	_ banger.Disks         = (*Disks)(nil)
	_ banger.KernelObjects = (*Disks)(nil)
)

// Create makes DIR/disk.base and then DIR/disk.cow: only with the latter there is a disk.
func (d *Disks) Create(ctx context.Context, dir string, sizeMiB int) (string, error) {
	if sizeMiB < banger.MinDiskMiB || sizeMiB > banger.MaxDiskMiB {
		return "", banger.Errorf(banger.CodeInvalid, "a disk of %d MiB is out of bounds: %d to %d MiB", sizeMiB, banger.MinDiskMiB, banger.MaxDiskMiB)
	}
	path := filepath.Join(dir, nameCOW)
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("disk of %s: %w", dir, err)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	base, most, err := d.base(ctx)
	if err != nil {
		return "", fmt.Errorf("base of all disks: %w", err)
	}
	if sizeMiB > most {
		return "", banger.Errorf(banger.CodeInvalid, "the filesystem of %s holds disks of at most %d MiB, not %d", base, most, sizeMiB)
	}
	if err := link(base, filepath.Join(dir, nameBase)); err != nil {
		return "", err
	}
	temp := filepath.Join(dir, nameTemp)
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", fmt.Errorf("create disk: %w", err)
	}
	err = errors.Join(resize(f, sizeMiB), f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = d.Remove(ctx, dir)
		return "", err
	}
	return path, hostfs.SyncDir(dir)
}

// base returns the base's path and size in MiB. The base is as large as a file can be on
// this filesystem, as it must be at least as large as any disk.
func (d *Disks) base(ctx context.Context) (path string, sizeMiB int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return "", 0, err
	}
	for _, size := range []int{banger.MaxDiskMiB, banger.MaxDiskMiB - 1, banger.MaxDiskMiB / 2, banger.MaxDiskMiB / 4, banger.MaxDiskMiB / 8} {
		if path, err = d.Base.Create(ctx, d.Dir, size); banger.CodeOf(err) != banger.CodeInvalid {
			break
		}
	}
	if err != nil {
		return "", 0, err
	}
	st, err := os.Lstat(path)
	if err == nil && st.Mode().Perm() != 0o400 {
		err = os.Chmod(path, 0o400)
	}
	if err != nil {
		return "", 0, err
	}
	return path, int(st.Size() / mib), nil
}

// link makes path a hard link to the base. It replaces what an earlier Create left there.
func link(base, path string) error {
	err := os.Link(base, path)
	if errors.Is(err, fs.ErrExist) {
		if err = os.Remove(path); err == nil {
			err = os.Link(base, path)
		}
	}
	if errors.Is(err, unix.EXDEV) {
		return banger.Errorf(banger.CodeInvalid, "%s and %s are on two filesystems: a dm-snapshot disk must be on its base's: %w", base, path, err).
			WithHint("keep the state directory on one filesystem, or set disk_driver to file in config.toml")
	}
	if err != nil {
		return fmt.Errorf("base of the disk: %w", err)
	}
	return nil
}

// Grow enlarges disk.cow. It returns an error when the host has no room: the guest would
// lose what it wrote.
func (d *Disks) Grow(_ context.Context, dir string, sizeMiB int) error {
	f, err := openCOW(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := sizeOf(f)
	if err != nil {
		return err
	}
	if have > sizeMiB || sizeMiB > banger.MaxDiskMiB {
		return banger.Errorf(banger.CodeInvalid, "disk %s has %d MiB: it can only grow, up to %[4]d MiB, not become %[3]d", f.Name(), have, sizeMiB, banger.MaxDiskMiB)
	}
	if st, err := os.Lstat(filepath.Join(dir, nameBase)); err != nil {
		return fmt.Errorf("base of the disk: %w", err)
	} else if int64(sizeMiB)*mib > st.Size() {
		return banger.Errorf(banger.CodeInvalid, "the filesystem of %s holds disks of at most %d MiB, not %d", f.Name(), st.Size()/mib, sizeMiB)
	}
	if err := hostfs.Room(f, leastRoom); err != nil {
		return err
	}
	return resize(f, sizeMiB)
}

// Remove deletes the disk and what an interrupted Create left.
func (d *Disks) Remove(_ context.Context, dir string) error {
	for _, n := range []string{nameCOW, nameTemp, nameBase} { // without the first there is no disk
		if err := os.Remove(filepath.Join(dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove disk: %w", err)
		}
	}
	return nil
}

// leastRoom, in MiB, must be free on a disk's filesystem for its guest to start: a new
// disk takes 5 when it is grown and systemd first starts.
const leastRoom = 16

// A device's UUID and a loop's label are a mark, a VM's id or baseID, and the owner.
const (
	markPrefix = "banger-"
	baseID     = "base"
)

func (d *Disks) mark(id string) string { return markPrefix + id + "-" + d.owner() }

// owner is a short digest of the state directory's path: a loop's label has 64 bytes.
func (d *Disks) owner() string {
	sum := sha256.Sum256([]byte(d.Owner))
	return hex.EncodeToString(sum[:6])
}

// parseMark parses such a UUID or label, of this daemon or another one.
func parseMark(s string) (id, owner string, ok bool) {
	rest, ok := strings.CutPrefix(s, markPrefix)
	id, owner, both := strings.Cut(rest, "-")
	return id, owner, ok && both && (banger.IsID(id) || id == baseID)
}

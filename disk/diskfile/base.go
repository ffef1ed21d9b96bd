package diskfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"banger"
	"banger/host/hostfs"
)

// baseName has a version. Raise it when anything below changes, so that an older
// daemon's base isn't taken for this one.
const baseName = "ext4-1"

// baseSizes, in MiB: a disk is made from the largest base that isn't larger than it, and
// its guest grows the filesystem. A disk's default size is one of them, since growing
// takes an emulated guest a tenth of a second at its start.
var baseSizes = []int{10 << 10, banger.MinDiskMiB}

// mkfsArgs makes a filesystem that is small as a file and quick to grow. All features are
// named ("none" clears those of mke2fs.conf), so that disks are the same on every host,
// and any kernel since 4.x mounts them.
//
//   - meta_bg without resize_inode: descriptors of added groups are stored in those
//     groups, so no reserve can become too small; 64bit for sums beyond 16 TiB.
//   - metadata_csum allows groups whose bitmaps and inode tables were never
//     written: growing writes descriptors only. Measured in an emulated guest:
//     0.08 s to 16 GiB, 0.3 s to 64 GiB, 4 s to 1 TiB, e2fsck clean.
//   - flex groups of 64 take a third off the growth to 1 TiB against 16.
//   - a journal of 16 MiB, since it can't grow later: a filesystem this small would get
//     4 MiB, which is too slow once it is large. It is sparse until used.
//   - one inode per 16 KiB, ext4's usual: source trees are small files.
//   - the root directory belongs to root, whoever runs mke2fs; no blocks are reserved for
//     root, as all programs in the guest may be root's.
var mkfsArgs = []string{
	"-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-G", "64", "-m", "0", "-J", "size=16", "-L", "banger",
	"-O", "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,meta_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
	"-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
}

// base opens the base for a disk of a size, and makes it when missing.
func (d Disks) base(ctx context.Context, sizeMiB int) (*os.File, error) {
	i := slices.IndexFunc(baseSizes, func(s int) bool { return s <= sizeMiB })
	size := baseSizes[i]
	path := filepath.Join(d.Dir, fmt.Sprintf("%s-%d.img", baseName, size))
	if f, err := os.Open(path); err == nil {
		return f, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("disk base: %w", err)
	}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("disk bases: %w", err)
	}
	// The lock guards the temporary name: there is only one, so crashes leave one file at most.
	lock, err := hostfs.OpenLocked(ctx, path+".lock")
	if err != nil {
		return nil, fmt.Errorf("lock disk base: %w", err)
	}
	defer lock.Close()
	if _, err := os.Stat(path); err != nil { // else another process made it while we waited
		if err := d.makeBase(ctx, path, size); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("disk base: %w", err)
	}
	return f, nil
}

// makeBase runs mke2fs on a sparse file and gives the result its name.
func (d Disks) makeBase(ctx context.Context, path string, sizeMiB int) error {
	mke2fs, err := d.mke2fs()
	if err != nil {
		return err
	}
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("disk base: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(int64(sizeMiB) * mib); err != nil {
		return fmt.Errorf("disk base: %w", err)
	}
	cmd := exec.CommandContext(ctx, mke2fs, append(slices.Clone(mkfsArgs), "--", temp)...)
	cmd.Env = []string{"LC_ALL=C", "MKE2FS_CONFIG=/dev/null", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.Remove(temp)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("make disk base with %s: %w: %s", mke2fs, err, bytes.TrimSpace(out[:min(len(out), 4096)]))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync disk base: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("name disk base: %w", err)
	}
	return hostfs.SyncDir(d.Dir)
}

// mke2fs returns the program's path. In many distributions its directory isn't in an
// ordinary user's PATH.
func (d Disks) mke2fs() (string, error) {
	if d.Mke2fs != "" {
		return d.Mke2fs, nil
	}
	for _, p := range []string{"mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"} {
		if found, err := exec.LookPath(p); err == nil {
			return found, nil
		}
	}
	return "", banger.Errorf(banger.CodeUnavailable, "no mke2fs on this host: VM disks can't be made").WithHint("install e2fsprogs")
}

// Package hostfs is what several rooms ask of the filesystem that holds a file of
// theirs: how much room it has left, and that names outlive a power cut. It
// refuses to know what the files are.
package hostfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger"
)

const mib = 1 << 20

// Room reports as an error that the filesystem of a disk has less than so many MiB
// left, and with it that the disk's guest couldn't write what it must.
func Room(disk *os.File, wantMiB int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(disk.Fd()), &st); err != nil {
		return fmt.Errorf("room of %s: %w", disk.Name(), err)
	}
	if have := int64(st.Bavail) * st.Bsize / mib; have < wantMiB {
		return banger.Errorf(banger.CodeUnavailable, "the filesystem of %s has %d MiB left, its guest needs %d: %w", disk.Name(), have, wantMiB, unix.ENOSPC).
			WithHint("the disk is full: make room and try again")
	}
	return nil
}

// SyncDir makes changes of names in a directory last (fsync(2)).
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

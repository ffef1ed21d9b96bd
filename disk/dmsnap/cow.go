package dmsnap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger"
)

// The store of a persistent snapshot (drivers/md/dm-snap-persistent.c): chunk 0 is its
// header, then areas follow. An area is one chunk with a table, 16 bytes an entry, and
// the 256 chunks of 4 KiB whose places on the disk the table has: 1 MiB of data. The
// kernel clears an area's table before it fills the last entry of the area before, so
// there is one area more than the data takes.
const (
	chunk        = 4096
	chunkSectors = chunk / 512
	areaChunks   = 1 + chunk/16
)

// cowSize returns the size of a disk.cow that can't overflow, in bytes: it holds the
// whole disk.
func cowSize(sizeMiB int) int64 { return (1 + areaChunks*(int64(sizeMiB)+1)) * chunk }

// sizeOf returns the disk's size in MiB, by the size of its disk.cow.
func sizeOf(cow *os.File) (sizeMiB int, err error) {
	st, err := cow.Stat()
	if err != nil {
		return 0, fmt.Errorf("disk: %w", err)
	}
	n := (st.Size()/chunk-1)/areaChunks - 1
	if n < banger.MinDiskMiB || n > banger.MaxDiskMiB || cowSize(int(n)) != st.Size() || !st.Mode().IsRegular() {
		return 0, banger.Errorf(banger.CodeConflict, "%s has %d bytes, and no disk of banger's has that size", cow.Name(), st.Size()).
			WithHint("something changed it: restore it, or delete the VM")
	}
	return int(n), nil
}

func openCOW(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, nameCOW), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, banger.Errorf(banger.CodeNotFound, "no disk in %s: %w", dir, err)
	} else if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	return f, nil
}

// resize sets a disk's size and makes it durable.
func resize(cow *os.File, sizeMiB int) error {
	if err := cow.Truncate(cowSize(sizeMiB)); errors.Is(err, unix.EFBIG) {
		return banger.Errorf(banger.CodeInvalid, "the filesystem of %s can't hold a file for a disk of %d MiB: %w", cow.Name(), sizeMiB, err)
	} else if err != nil {
		return fmt.Errorf("size disk: %w", err)
	}
	if err := cow.Sync(); err != nil {
		return fmt.Errorf("sync disk: %w", err)
	}
	return nil
}

// header is the header of the store (struct disk_header), little-endian.
type header struct {
	Magic, Valid, Version, ChunkSectors uint32
}

const headerMagic = 0x70416e53

// mend marks a store that no device uses as valid again. When the kernel once can't write
// to a store, as on a full filesystem, it marks the snapshot as invalid for good, and
// all data would be lost. But all that it acknowledged is there: it writes an entry
// after the data, and a table whole or not at all. So the store is as good as a disk
// after a power cut.
func mend(cow *os.File) (mended bool, err error) {
	var h header
	if err := binary.Read(io.NewSectionReader(cow, 0, chunk), binary.LittleEndian, &h); err != nil {
		return false, fmt.Errorf("read the header of %s: %w", cow.Name(), err)
	}
	switch {
	case h == header{}: // never attached: the kernel will write it
		return false, nil
	case h.Magic != headerMagic || h.Version != 1 || h.ChunkSectors != chunkSectors:
		return false, banger.Errorf(banger.CodeConflict, "%s doesn't begin with the header of a snapshot's store: %+v", cow.Name(), h).
			WithHint("something wrote over it: restore it, or delete the VM")
	case h.Valid == 1:
		return false, nil
	}
	h.Valid = 1
	if err := binary.Write(io.NewOffsetWriter(cow, 0), binary.LittleEndian, h); err != nil {
		return false, fmt.Errorf("write the header of %s: %w", cow.Name(), err)
	}
	return true, cow.Sync()
}

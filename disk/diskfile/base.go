package diskfile

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"banger"
	"banger/host/hostfs"
)

// baseName has a version. Raise it when anything below changes, so that an older
// daemon's base isn't taken for this one.
const baseName = "ext4-2"

// baseSizes, in MiB: a disk is made from the largest base that isn't larger than it, and
// its guest grows the filesystem. A disk's default size is one of them, since growing
// takes an emulated guest a tenth of a second at its start.
var baseSizes = []int{10 << 10, banger.MinDiskMiB}

// empty has a new filesystem of each size, as mke2fs made it, so that no host needs
// mke2fs: the blocks that aren't all zeros, each after its number (32 bits, little-endian),
// compressed. The options that it was made with, and what made these files, are in base_test.go.
//
//go:embed empty/*.gz
var empty embed.FS

const (
	blockSize   = 4096
	groupBlocks = 32768 // of each group, whose first block may have a copy of the superblock
	superSize   = 1024
	superOffset = 1024 // of the first superblock; the others begin their block
)

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
		if err := d.makeBase(path, size); err != nil {
			return nil, fmt.Errorf("make disk base: %w", err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("disk base: %w", err)
	}
	return f, nil
}

// makeBase writes a sparse file and gives it its name.
func (d Disks) makeBase(path string, sizeMiB int) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := errors.Join(writeEmpty(f, sizeMiB), f.Truncate(int64(sizeMiB)*mib), f.Sync()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return hostfs.SyncDir(d.Dir)
}

// writeEmpty writes an empty filesystem. Its directories hash names with a secret of this
// host's: a known one would let a guest's program choose names that all hash alike.
func writeEmpty(f io.WriterAt, sizeMiB int) error {
	packed, err := empty.Open(fmt.Sprintf("empty/%d.gz", sizeMiB))
	if err != nil {
		return err
	}
	defer func() { _ = packed.Close() }() // it is in the program
	r, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}
	var seed [16]byte
	_, _ = rand.Read(seed[:]) // never fails (crypto/rand)
	for {
		var b struct {
			Number uint32
			Data   [blockSize]byte
		}
		if err := binary.Read(r, binary.LittleEndian, &b); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		switch {
		case b.Number == 0:
			reseed(b.Data[superOffset:][:superSize], seed)
		case b.Number%groupBlocks == 0:
			reseed(b.Data[:superSize], seed)
		}
		if _, err := f.WriteAt(b.Data[:], int64(b.Number)*blockSize); err != nil {
			return err
		}
	}
}

// reseed sets the secret that a superblock's directories hash names with
// (Documentation/filesystems/ext4/super.rst in the Linux source).
func reseed(super []byte, seed [16]byte) {
	const magicAt, seedAt, sumAt = 0x38, 0xec, superSize - 4
	if !bytes.Equal(super[magicAt:][:2], []byte{0x53, 0xef}) {
		return // a group's first block that isn't a superblock
	}
	copy(super[seedAt:], seed[:])
	// The kernel's checksum isn't inverted at its end.
	sum := ^crc32.Checksum(super[:sumAt], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(super[sumAt:], sum)
}

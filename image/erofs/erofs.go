// Package erofs writes EROFS filesystem images: the bytes of inodes, extended
// attributes, directories and the superblock, and where in the image they go.
// Images are uncompressed, use 4 KiB blocks, and mount on Linux 5.15 and later.
//
// It keeps no names and no tree: it asks its caller for each directory's entries when all
// else is written. So its memory doesn't depend on how many files an image has. Sizes
// and offsets are in bytes.
//
// The format is that of Documentation/filesystems/erofs.rst and
// fs/erofs/erofs_fs.h in the Linux source.
//
// An image is written in one pass. A file's data is written as it comes. Its inode goes
// into a run of metadata blocks among the data, followed in the same block by the file's
// tail, or by all of a small file. Directories come last, as they need the addresses of
// all that is in them. The metadata area is declared to start at block 0, so an inode's
// number is its offset in the image in units of 32 bytes. The root's place is fixed,
// since the superblock has only 16 bits for its number.
package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	blockSize   = 4096
	blockBits   = 12
	superOffset = 1024
	superSize   = 128
	superMagic  = 0xE0F5E1E2
	inodeSize   = 64 // the extended form: 64-bit sizes, 32-bit owners, nanoseconds
	slotSize    = 32 // the unit of inode numbers
	rootOffset  = superOffset + superSize
	nullBlock   = 0xFFFFFFFF // the address of a hole, in a chunk map

	compatChecksum  = 0x1
	compatMtime     = 0x2
	incompatChunked = 0x4

	layoutPlain   = 0 // all data in consecutive blocks
	layoutInline  = 2 // the last, partial block follows the inode
	layoutChunked = 4 // a map of chunks follows the inode
)

// MaxNameLen is the longest name of a directory entry, in bytes.
const MaxNameLen = 255

// The type bits of Attr.Mode, those of inode(7).
const (
	ModeType    = 0o170000
	ModeFIFO    = 0o010000
	ModeChar    = 0o020000
	ModeDir     = 0o040000
	ModeBlock   = 0o060000
	ModeRegular = 0o100000
	ModeSymlink = 0o120000
)

// Attr is what an inode has besides its data.
type Attr struct {
	Mode     uint16 // type and permissions, as in st_mode
	UID, GID uint32
	Sec      int64  // modification time, seconds since 1970
	Nsec     uint32 // and nanoseconds, below 1e9
	Xattrs   Xattrs
}

// Inode is an inode's number in its image: st_ino when it is mounted.
type Inode uint64

const rootInode = Inode(rootOffset / slotSize)

func (i Inode) offset() int64 { return int64(i) * slotSize }

// header returns the extended on-disk inode. addr is the start block, the chunk format
// or the device number; layout and type say which.
func (a Attr) header(layout uint16, size int64, addr, links uint32, self Inode) []byte {
	b := make([]byte, inodeSize, inodeSize+len(a.Xattrs))
	le := binary.LittleEndian
	le.PutUint16(b[0:], 1|layout<<1)
	le.PutUint16(b[2:], a.Xattrs.count())
	le.PutUint16(b[4:], a.Mode)
	le.PutUint64(b[8:], uint64(size))
	le.PutUint32(b[16:], addr)
	le.PutUint32(b[20:], uint32(self))
	le.PutUint32(b[24:], a.UID)
	le.PutUint32(b[28:], a.GID)
	le.PutUint64(b[32:], uint64(a.Sec))
	le.PutUint32(b[40:], a.Nsec)
	le.PutUint32(b[linksOffset:], links)
	return append(b, a.Xattrs...)
}

// linksOffset is where an extended inode has its link count.
const linksOffset = 44

// superblock fills in the superblock in the image's first block. Its checksum is over
// the rest of that block, too.
func superblock(block []byte, uuid []byte, inodes uint64, blocks, incompat uint32) {
	le := binary.LittleEndian
	s := block[superOffset:]
	le.PutUint32(s[0:], superMagic)
	le.PutUint32(s[4:], 0)
	le.PutUint32(s[8:], compatChecksum|compatMtime)
	s[12] = blockBits
	le.PutUint16(s[14:], uint16(rootInode))
	le.PutUint64(s[16:], inodes)
	le.PutUint32(s[36:], blocks)
	copy(s[48:64], uuid)
	le.PutUint32(s[80:], incompat)
	// The kernel's crc32c() doesn't invert its result, Go's does.
	le.PutUint32(s[4:], ^crc32.Checksum(s, castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fileType is the type byte of a directory entry.
func fileType(mode uint16) byte {
	switch mode & ModeType {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFIFO:
		return 5
	case ModeSymlink:
		return 7
	}
	return 0
}

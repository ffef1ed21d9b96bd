// Package ext4 reads an ext4 file system that isn't mounted, without any privilege: files,
// links, attributes, and what an unclean end left in the journal. It changes nothing.
//
// A guest made the file system, so nothing in it is trusted: all numbers are checked, and
// what can't be understood is an error. Sizes and offsets are in bytes, if not said
// otherwise. The format is that of Documentation/filesystems/ext4 in the Linux source.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"banger/image/node"
)

// ErrFormat is in the chain of an error about a file system that is damaged, or has what
// this package doesn't know.
var ErrFormat = errors.New("the ext4 file system can't be read")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrFormat, fmt.Errorf(format, args...))
}

// Features of a file system that a reader must know.
const (
	incompatRecover  = 0x4
	incompatMetaBG   = 0x10
	incompat64Bit    = 0x80
	incompatKnown    = 0x2 | incompatRecover | incompatMetaBG | 0x40 | incompat64Bit | 0x200 | 0x2000 | 0x4000
	sparseSuper      = 0x1
	superOffset      = 1024
	rootInode        = 2
	maxDepth         = 5 // of an extent tree
	maxSymlink       = 4096
	maxDir           = 2 * 264 * node.MaxNames // half of it may be free
	flagExtents      = 0x80000
	flagInline       = 0x10000000
	flagEncrypted    = 0x800
	maxXattr         = 64 << 10
	unwritten        = 1 << 15 // extents longer than this are zeros
	extentMagic      = 0xF30A
	xattrMagic       = 0xEA020000
	maxReservedInode = 10
)

var le = binary.LittleEndian

// FS is an ext4 file system; it implements node.Tree.
type FS struct {
	file      io.ReaderAt
	size      int64
	block     int64 // size of one
	inodeSize int64
	perGroup  uint32 // inodes
	blocks    uint64 // per group
	first     uint64 // block
	inodes    uint32
	descSize  int64
	metaBG    uint32 // the first of these groups of groups; all ones: none
	sparse    bool
	incompat  uint32
	journal   uint32               // its inode
	replayed  map[uint64]journaled // blocks that the journal has newer
}

// journaled is where the newer content of a block lies.
type journaled struct {
	at      int64
	escaped bool
}

// Open reads the superblock of a file system with size bytes and, if it wasn't unmounted,
// its journal.
func Open(f io.ReaderAt, size int64) (*FS, error) {
	fs := &FS{file: f, size: size}
	if err := fs.superblock(); err != nil {
		return nil, err
	}
	if fs.incompat&incompatRecover == 0 {
		return fs, nil
	}
	if err := fs.replay(); err != nil {
		return nil, err
	}
	return fs, fs.superblock()
}

func (fs *FS) superblock() error {
	s := make([]byte, 1024)
	if err := fs.read(s, superOffset); err != nil {
		return err
	}
	if le.Uint16(s[0x38:]) != 0xEF53 {
		return bad("it has no superblock")
	}
	shift := le.Uint32(s[0x18:])
	if shift > 2 {
		return bad("blocks of 1<<%d KiB", shift)
	}
	fs.block = 1024 << shift
	fs.inodes, fs.first = le.Uint32(s[0:]), uint64(le.Uint32(s[0x14:]))
	fs.blocks, fs.perGroup = uint64(le.Uint32(s[0x20:])), le.Uint32(s[0x28:])
	fs.inodeSize, fs.incompat = int64(le.Uint16(s[0x58:])), le.Uint32(s[0x60:])
	fs.journal, fs.descSize, fs.metaBG = le.Uint32(s[0xE0:]), 32, ^uint32(0)
	fs.sparse = le.Uint32(s[0x64:])&sparseSuper != 0
	if unknown := fs.incompat &^ incompatKnown; unknown != 0 {
		return bad("features 0x%x aren't known", unknown)
	}
	if fs.incompat&incompat64Bit != 0 {
		fs.descSize = int64(le.Uint16(s[0xFE:]))
	}
	if fs.incompat&incompatMetaBG != 0 {
		fs.metaBG = le.Uint32(s[0x104:])
	}
	if fs.blocks == 0 || fs.perGroup == 0 || fs.inodeSize < 128 || fs.inodeSize > fs.block || fs.descSize < 32 || fs.descSize > 1024 || fs.descSize&(fs.descSize-1) != 0 {
		return bad("the superblock contradicts itself")
	}
	return nil
}

// read reads through the journal's newer blocks.
func (fs *FS) read(b []byte, at int64) error {
	if at < 0 || at > fs.size-int64(len(b)) {
		return bad("bytes at %d lie beyond its end", at)
	}
	if len(fs.replayed) == 0 {
		return fs.readRaw(b, at)
	}
	for len(b) > 0 {
		n := min(int64(len(b)), fs.block-at%fs.block)
		if err := fs.readBlock(b[:n], uint64(at/fs.block), at%fs.block); err != nil {
			return err
		}
		b, at = b[n:], at+n
	}
	return nil
}

// readBlock reads a part of one block.
func (fs *FS) readBlock(b []byte, block uint64, within int64) error {
	newer, ok := fs.replayed[block]
	if !ok {
		return fs.readRaw(b, int64(block)*fs.block+within)
	}
	if err := fs.readRaw(b, newer.at+within); err != nil || !newer.escaped || within >= 4 {
		return err
	}
	var magic [4]byte
	binary.BigEndian.PutUint32(magic[:], journalMagic)
	copy(b, magic[within:])
	return nil
}

func (fs *FS) readRaw(b []byte, at int64) error {
	if n, err := fs.file.ReadAt(b, at); n < len(b) {
		return bad("bytes at %d: %w", at, err)
	}
	return nil
}

// hasSuper reports whether a group begins with a copy of the superblock.
func (fs *FS) hasSuper(group uint64) bool {
	if !fs.sparse || group <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// descriptor returns where a group's descriptor lies.
func (fs *FS) descriptor(group uint64) int64 {
	per := uint64(fs.block / fs.descSize)
	meta := group / per
	if meta < uint64(fs.metaBG) {
		return int64(fs.first+1)*fs.block + int64(group)*fs.descSize
	}
	block := fs.first + meta*per*fs.blocks
	if fs.hasSuper(meta * per) {
		block++
	}
	return int64(block)*fs.block + int64(group%per)*fs.descSize
}

// inode is one as it is on disk.
type inode struct {
	raw   []byte
	mode  uint16
	flags uint32
	size  int64
}

func (fs *FS) inode(ino uint64) (n inode, err error) {
	if ino == 0 || ino > uint64(fs.inodes) {
		return n, bad("there is no inode %d", ino)
	}
	group, index := (ino-1)/uint64(fs.perGroup), (ino-1)%uint64(fs.perGroup)
	d := make([]byte, fs.descSize)
	if err := fs.read(d, fs.descriptor(group)); err != nil {
		return n, err
	}
	table := uint64(le.Uint32(d[0x8:]))
	if fs.descSize >= 64 {
		table |= uint64(le.Uint32(d[0x28:])) << 32
	}
	if table > uint64(fs.size/fs.block) {
		return n, bad("the inodes of group %d lie beyond its end", group)
	}
	n.raw = make([]byte, fs.inodeSize)
	if err := fs.read(n.raw, int64(table)*fs.block+int64(index)*fs.inodeSize); err != nil {
		return n, err
	}
	n.mode, n.flags = le.Uint16(n.raw), le.Uint32(n.raw[0x20:])
	n.size = int64(le.Uint32(n.raw[4:])) | int64(le.Uint32(n.raw[0x6C:]))<<32
	if n.size < 0 || n.flags&(flagInline|flagEncrypted) != 0 {
		return n, bad("inode %d has flags 0x%x and %d bytes", ino, n.flags, n.size)
	}
	return n, nil
}

// Root implements node.Tree.
func (fs *FS) Root() uint64 { return rootInode }

// Attr implements node.Tree.
func (fs *FS) Attr(ino uint64) (node.Attr, error) {
	n, err := fs.inode(ino)
	if err != nil {
		return node.Attr{}, err
	}
	a := node.Attr{
		Mode: n.mode, UID: uint32(le.Uint16(n.raw[2:])) | uint32(le.Uint16(n.raw[0x78:]))<<16,
		GID: uint32(le.Uint16(n.raw[0x18:])) | uint32(le.Uint16(n.raw[0x7A:]))<<16,
		Sec: int64(int32(le.Uint32(n.raw[0x10:]))), Size: n.size, Links: uint32(le.Uint16(n.raw[0x1A:])),
	}
	if n.extra() >= 0x8C-128 {
		extra := le.Uint32(n.raw[0x88:])
		a.Sec += int64(extra&3) << 32
		a.Nsec = extra >> 2
	}
	if a.Nsec >= 1e9 {
		return a, bad("inode %d has a time of %d nanoseconds", ino, a.Nsec)
	}
	if t := a.Type(); t == node.ModeChar || t == node.ModeBlock {
		if old := le.Uint32(n.raw[0x28:]); old != 0 {
			a.Major, a.Minor = old>>8&0xFF, old&0xFF
		} else {
			dev := le.Uint32(n.raw[0x2C:])
			a.Major, a.Minor = dev>>8&0xFFF, dev&0xFF|dev>>12&0xFFF00
		}
	}
	a.Xattrs, err = fs.xattrs(n)
	return a, err
}

// extra is how many bytes of fields an inode has beyond the first 128.
func (n inode) extra() int {
	if len(n.raw) < 132 {
		return 0
	}
	return min(int(le.Uint16(n.raw[0x80:])), len(n.raw)-128)
}

// Names implements node.Tree.
func (fs *FS) Names(ino uint64) ([]node.Name, error) {
	n, err := fs.inode(ino)
	if err != nil {
		return nil, err
	}
	if n.mode&node.ModeType != node.ModeDir {
		return nil, bad("inode %d is no directory", ino)
	}
	if n.size > maxDir {
		return nil, bad("directory %d has %d bytes", ino, n.size)
	}
	var list []node.Name
	content, err := fs.content(n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, fs.block)
	for left := n.size; left > 0; left -= fs.block {
		if _, err := io.ReadFull(content, b); err != nil {
			return nil, bad("directory %d: %w", ino, err)
		}
		if list, err = entries(list, b); err != nil {
			return nil, fmt.Errorf("directory %d: %w", ino, err)
		}
	}
	slices.SortFunc(list, func(a, b node.Name) int { return strings.Compare(a.Name, b.Name) })
	for i := range len(list) - 1 {
		if list[i].Name == list[i+1].Name {
			return nil, bad("directory %d has %q twice", ino, list[i].Name)
		}
	}
	return list, nil
}

// entries appends the names of one block of a directory. The index that a large one has
// looks like entries without an inode.
func entries(list []node.Name, b []byte) ([]node.Name, error) {
	for len(b) >= 8 {
		ino, step, size := le.Uint32(b), int(le.Uint16(b[4:])), int(b[6])
		if step < 8 || step > len(b) || step&3 != 0 || size > step-8 {
			return nil, bad("an entry of %d bytes", step)
		}
		name := string(b[8 : 8+size])
		b = b[step:]
		if ino == 0 || name == "." || name == ".." {
			continue
		}
		if name == "" || strings.ContainsAny(name, "/\x00") || len(list) >= node.MaxNames {
			return nil, bad("the name %q, after %d others", name, len(list))
		}
		list = append(list, node.Name{Name: name, Ino: uint64(ino)})
	}
	return list, nil
}

// Content implements node.Tree.
func (fs *FS) Content(ino uint64) (io.Reader, error) {
	n, err := fs.inode(ino)
	if err != nil {
		return nil, err
	}
	switch n.mode & node.ModeType {
	case node.ModeRegular:
		return fs.content(n)
	case node.ModeSymlink:
	default:
		return nil, bad("inode %d has no content", ino)
	}
	if n.size > maxSymlink {
		return nil, bad("a symbolic link of %d bytes", n.size)
	}
	if n.flags&flagExtents == 0 && n.size < 60 {
		return strings.NewReader(string(n.raw[0x28 : 0x28+n.size])), nil
	}
	return fs.content(n)
}

// extent is a run of blocks of a file.
type extent struct {
	from, count uint64 // blocks of the file
	at          uint64 // block of the file system; 0: a hole
}

func (fs *FS) content(n inode) (io.Reader, error) {
	if n.flags&flagExtents == 0 && n.size > 0 {
		return nil, bad("a file without extents")
	}
	var list []extent
	if n.size > 0 {
		var err error
		if list, err = fs.extents(nil, n.raw[0x28:0x28+60], maxDepth); err != nil {
			return nil, err
		}
	}
	return &stream{fs: fs, list: list, left: n.size}, nil
}

// extents appends the extents in a node of a file's tree.
func (fs *FS) extents(list []extent, b []byte, deepest int) ([]extent, error) {
	count, depth := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != extentMagic || 12+12*count > len(b) || depth > deepest || len(list) > node.MaxNames*16 {
		return nil, bad("an extent tree")
	}
	for i := range count {
		e := b[12+12*i:]
		if depth > 0 {
			child := make([]byte, fs.block)
			block := uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
			if err := fs.read(child, int64(block)*fs.block); err != nil {
				return nil, err
			}
			// An empty node would cost nothing: a tree of them could be read for ever.
			if int(le.Uint16(child[6:])) != depth-1 || le.Uint16(child[2:]) == 0 {
				return nil, bad("an extent tree of wrong depth, or with an empty node")
			}
			var err error
			if list, err = fs.extents(list, child, depth-1); err != nil {
				return nil, err
			}
			continue
		}
		x := extent{uint64(le.Uint32(e)), uint64(le.Uint16(e[4:])), uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32}
		if x.count > unwritten {
			x.count, x.at = x.count-unwritten, 0
		}
		if n := len(list); x.count == 0 || n > 0 && x.from < list[n-1].from+list[n-1].count {
			return nil, bad("extents over each other, or of nothing")
		}
		list = append(list, x)
	}
	return list, nil
}

// stream reads a file by its extents.
type stream struct {
	fs   *FS
	list []extent
	at   int64
	left int64
}

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), s.left)]
	block := uint64(s.at / s.fs.block)
	for len(s.list) > 0 && s.list[0].from+s.list[0].count <= block {
		s.list = s.list[1:]
	}
	end, from := uint64(1)<<50, uint64(0) // of a hole
	if len(s.list) > 0 {
		if x := s.list[0]; x.from > block {
			end = x.from
		} else if end = x.from + x.count; x.at != 0 {
			from = x.at + block - x.from
		}
	}
	b = b[:min(int64(len(b)), int64(end)*s.fs.block-s.at)]
	if from == 0 {
		clear(b)
	} else if err := s.fs.read(b, int64(from)*s.fs.block+s.at%s.fs.block); err != nil {
		return 0, err
	}
	s.at += int64(len(b))
	s.left -= int64(len(b))
	return len(b), nil
}

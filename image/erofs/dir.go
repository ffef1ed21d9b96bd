package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
)

// Entry is one name in a directory.
type Entry struct {
	Name  []byte // 1 to MaxNameLen bytes, no slash and no zero; not "." or ".."
	Inode Inode
	Mode  uint16 // of the inode; only the type bits are used
}

// Entries yields a directory's entries, sorted by the bytes of their names. It is called
// twice, and must yield the same names.
type Entries iter.Seq[Entry]

const direntSize = 12

// PlaceRoot reserves room for the root directory, in the block of the superblock.
// ErrXattr when its attributes don't fit there: 2.8 KiB.
func (w *Writer) PlaceRoot(a Attr) (Inode, error) {
	if inodeSize+len(a.Xattrs) > blockSize-rootOffset {
		return 0, fmt.Errorf("%w: %d bytes of them on the root directory", ErrXattr, len(a.Xattrs))
	}
	w.live++
	return rootInode, nil
}

// PlaceDir reserves room for a directory and returns its number, for other directories'
// entries. Of its own entries only the names are used.
func (w *Writer) PlaceDir(a Attr, entries Entries) (Inode, error) {
	w.live++
	var tail int
	for b := range dirBlocks(entries, 0, 0) {
		tail = len(b)
	}
	n := inodeSize + len(a.Xattrs)
	if n+tail <= blockSize {
		n += tail
	}
	return w.place(n)
}

// WriteDir writes a directory to the room reserved for it. links is 2, and one more for
// each directory in it.
func (w *Writer) WriteDir(self, parent Inode, a Attr, links uint32, entries Entries) error {
	room := blockSize
	if self == rootInode {
		room -= rootOffset
	}
	var size int64
	var start uint32
	layout := uint16(layoutPlain)
	var tail []byte
	for b, more := range dirBlocks(entries, self, parent) {
		size += int64(len(b))
		if !more && inodeSize+len(a.Xattrs)+len(b) <= room {
			layout, tail = layoutInline, b
			break
		}
		if start == 0 {
			start = uint32(w.next)
		}
		if err := w.emit(b); err != nil {
			return err
		}
		if more {
			size += int64(blockSize - len(b))
		}
	}
	b := append(a.header(layout, size, start, links, self), tail...)
	return w.writeMeta(b, self.offset())
}

// dirBlocks yields a directory's blocks without their padding, and whether another one
// follows. The bytes may be used until the next one.
func dirBlocks(entries Entries, self, parent Inode) iter.Seq2[[]byte, bool] {
	return func(yield func([]byte, bool) bool) {
		var heads, names []byte
		block := func() []byte {
			// A name's offset is from the start of the block, so it depends on how many entries
			// come before the names.
			for i := 0; i < len(heads); i += direntSize {
				at := binary.LittleEndian.Uint16(heads[i+8:]) + uint16(len(heads))
				binary.LittleEndian.PutUint16(heads[i+8:], at)
			}
			return append(heads, names...)
		}
		for e := range withDots(entries, self, parent) {
			if len(heads)+direntSize+len(names)+len(e.Name) > blockSize {
				if !yield(block(), true) {
					return
				}
				heads, names = heads[:0], names[:0]
			}
			heads = binary.LittleEndian.AppendUint64(heads, uint64(e.Inode))
			heads = binary.LittleEndian.AppendUint16(heads, uint16(len(names)))
			heads = append(heads, fileType(e.Mode), 0)
			names = append(names, e.Name...)
		}
		yield(block(), false)
	}
}

// withDots adds "." and ".." in the order of their bytes.
func withDots(entries Entries, self, parent Inode) Entries {
	dots := []Entry{{[]byte("."), self, ModeDir}, {[]byte(".."), parent, ModeDir}}
	return func(yield func(Entry) bool) {
		left := dots
		for e := range entries {
			for len(left) > 0 && bytes.Compare(left[0].Name, e.Name) < 0 {
				if !yield(left[0]) {
					return
				}
				left = left[1:]
			}
			if !yield(e) {
				return
			}
		}
		for _, e := range left {
			if !yield(e) {
				return
			}
		}
	}
}

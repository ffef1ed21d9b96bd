package erofs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// File is the new, empty file that an image is written to. Bytes that were skipped must
// read as zero.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// ErrTooLarge is in the chain of an error when an image would be larger than 16 TiB, or a
// file larger than its chunk map can describe.
var ErrTooLarge = errors.New("too large for the format")

const (
	bufferSize = 1 << 20
	runBlocks  = 16 // metadata blocks set aside at a time
)

// Writer writes one image: files, links and nodes first, directories last,
// then Close. After an error it is of no use. Not for concurrent use.
type Writer struct {
	file File
	next uint64 // the first free block
	live uint64 // inodes with a link

	// Data not yet written: buf[:used] belongs at offset bufAt.
	buf   []byte
	used  int
	bufAt int64

	// The current run of metadata blocks, filled up to metaUsed, at offset metaAt.
	meta     []byte
	metaUsed int
	metaAt   int64

	super    [blockSize]byte // block 0: superblock and root inode
	in       []byte          // what was just read of a file
	chunks   []uint32        // the chunk map of the current file
	incompat uint32
	sum      hash.Hash // of everything written, for the volume's UUID
}

// NewWriter returns a Writer to an empty file.
func NewWriter(f File) *Writer {
	return &Writer{
		file: f, next: 1,
		buf:  make([]byte, bufferSize),
		in:   make([]byte, bufferSize/4),
		meta: make([]byte, runBlocks*blockSize), metaUsed: runBlocks * blockSize,
		sum: sha256.New(),
	}
}

// Size returns the bytes the image has taken so far.
func (w *Writer) Size() int64 { return int64(w.next) * blockSize }

// Symlink adds a symbolic link; the target is 1 to 4095 bytes, without a zero byte.
func (w *Writer) Symlink(a Attr, target string) (Inode, error) {
	return w.File(a, int64(len(target)), bytes.NewReader([]byte(target)))
}

// Target reads the target of a symbolic link back. ErrTooLarge for a target of over 4,000
// bytes, which didn't fit into a block with its inode.
func (w *Writer) Target(i Inode) (string, error) {
	var h [inodeSize]byte
	if err := w.readMeta(h[:], i.offset()); err != nil {
		return "", err
	}
	le := binary.LittleEndian
	size, words := le.Uint64(h[8:]), int64(le.Uint16(h[2:]))
	if le.Uint16(h[0:]) != 1|layoutInline<<1 || le.Uint16(h[4:])&ModeType != ModeSymlink || size > blockSize {
		return "", fmt.Errorf("%w: the target of a link of %d bytes", ErrTooLarge, size)
	}
	at := i.offset() + inodeSize
	if words > 0 {
		at += xattrHeader + 4*(words-1)
	}
	b := make([]byte, size)
	err := w.readMeta(b, at)
	return string(b), err
}

// Special adds a FIFO or a device. Majors have 12 bits, minors 20, encoded as by the
// kernel's new_encode_dev.
func (w *Writer) Special(a Attr, major, minor uint32) (Inode, error) {
	if major >= 1<<12 || minor >= 1<<20 {
		return 0, fmt.Errorf("%w: device %d:%d", ErrTooLarge, major, minor)
	}
	return w.inode(a, layoutPlain, 0, minor&0xFF|major<<8|minor&^0xFF<<12, nil)
}

// Link adds delta to the link count of a file that is not a directory, and returns the
// new count. An inode without links stays in the image, unused.
func (w *Writer) Link(i Inode, delta int) (uint32, error) {
	var b [4]byte
	at := i.offset() + linksOffset
	if err := w.readMeta(b[:], at); err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint32(b[:]) + uint32(delta)
	binary.LittleEndian.PutUint32(b[:], n)
	if n == 0 {
		w.live--
	}
	return n, w.writeMeta(b[:], at)
}

// Close writes what isn't written yet, and the superblock. It doesn't sync or close the
// file.
func (w *Writer) Close() error {
	used := (w.metaUsed + blockSize - 1) / blockSize
	if w.metaAt+int64(len(w.meta)) == w.Size() { // nothing came after the last run
		w.next -= uint64(runBlocks - used)
	}
	if err := errors.Join(w.flush(), w.flushMeta()); err != nil {
		return err
	}
	w.sum.Write(w.super[rootOffset:])
	uuid := w.sum.Sum(nil)[:16]
	uuid[6] = uuid[6]&0x0F | 0x80 // version 8 of RFC 9562: made by a method of our own
	uuid[8] = uuid[8]&0x3F | 0x80
	superblock(w.super[:], uuid, w.live, uint32(w.next), w.incompat)
	return w.writeAt(w.super[:], 0)
}

// inode writes an inode with the tail or chunk map that follows it.
func (w *Writer) inode(a Attr, layout uint16, size int64, addr uint32, behind []byte) (Inode, error) {
	w.live++
	i, err := w.place(inodeSize + len(a.Xattrs) + len(behind))
	if err != nil {
		return 0, err
	}
	return i, w.writeMeta(append(a.header(layout, size, addr, 1, i), behind...), i.offset())
}

// place finds room for an inode of n bytes. It lies within one block, as the kernel
// demands of inline data; one larger than a block gets blocks of its own.
func (w *Writer) place(n int) (Inode, error) {
	if n > blockSize {
		at := w.Size()
		w.next += uint64(n+blockSize-1) / blockSize
		// The last block is written whole, in case it ends the image.
		return Inode(at / slotSize), errors.Join(w.checkSize(), w.writeAt(make([]byte, blockSize), w.Size()-blockSize))
	}
	at := (w.metaUsed + slotSize - 1) &^ (slotSize - 1)
	if at%blockSize+n > blockSize {
		at = (at + blockSize - 1) &^ (blockSize - 1)
	}
	if at+n > len(w.meta) {
		if err := w.flushMeta(); err != nil {
			return 0, err
		}
		clear(w.meta)
		at, w.metaAt = 0, w.Size()
		w.next += runBlocks
	}
	w.metaUsed = at + n
	return Inode((w.metaAt + int64(at)) / slotSize), w.checkSize()
}

func (w *Writer) checkSize() error {
	if w.next >= nullBlock {
		return fmt.Errorf("%w: image", ErrTooLarge)
	}
	return nil
}

// window returns the bytes at an offset if they are still in memory.
func (w *Writer) window(n int, at int64) []byte {
	switch {
	case at >= rootOffset && at+int64(n) <= blockSize:
		return w.super[at : at+int64(n)]
	case w.metaAt > 0 && at >= w.metaAt && at+int64(n) <= w.metaAt+int64(len(w.meta)):
		return w.meta[at-w.metaAt : at-w.metaAt+int64(n)]
	}
	return nil
}

func (w *Writer) readMeta(b []byte, at int64) error {
	if m := w.window(len(b), at); m != nil {
		copy(b, m)
		return nil
	}
	_, err := w.file.ReadAt(b, at)
	return err
}

func (w *Writer) writeMeta(b []byte, at int64) error {
	if m := w.window(len(b), at); m != nil {
		copy(m, b)
		return nil
	}
	w.sum.Write(b)
	return w.writeAt(b, at)
}

func (w *Writer) flushMeta() error {
	if w.metaAt == 0 {
		return nil
	}
	b := w.meta
	if end := w.Size() - w.metaAt; end < int64(len(b)) {
		b = b[:end]
	}
	w.sum.Write(b)
	return w.writeAt(b, w.metaAt)
}

// emit appends one block of data, padded with zeros, at w.next.
func (w *Writer) emit(block []byte) error {
	if w.bufAt+int64(w.used) != w.Size() || w.used == len(w.buf) {
		if err := w.flush(); err != nil {
			return err
		}
		w.bufAt = w.Size()
	}
	n := copy(w.buf[w.used:], block)
	clear(w.buf[w.used+n : w.used+blockSize])
	w.used += blockSize
	w.next++
	return w.checkSize()
}

func (w *Writer) flush() error {
	if w.used == 0 {
		return nil
	}
	b := w.buf[:w.used]
	w.used = 0
	// A fast checksum of the data is enough for a UUID: nothing relies on it.
	w.sum.Write(binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)))
	return w.writeAt(b, w.bufAt)
}

func (w *Writer) writeAt(b []byte, at int64) error {
	_, err := w.file.WriteAt(b, at)
	return err
}

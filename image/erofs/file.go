package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
)

// maxChunks bounds the map of one file, and so the memory for it: larger files get larger
// chunks.
const maxChunks = 1 << 20

// File adds a regular file of exactly size bytes read from r. Blocks of zeros
// become holes. An error of r is returned as it is; an early end is
// io.ErrUnexpectedEOF.
func (w *Writer) File(a Attr, size int64, r io.Reader) (Inode, error) {
	if size == 0 || size <= int64(blockSize-inodeSize-len(a.Xattrs)) {
		return w.small(a, size, r)
	}
	blocks := (uint64(size) + blockSize - 1) / blockSize
	shift := max(0, bits.Len64((blocks-1)/maxChunks))
	if shift > 31 {
		return 0, fmt.Errorf("%w: file of %d bytes", ErrTooLarge, size)
	}
	f := chunked{w: w, shift: shift, chunks: w.chunks[:0]}
	tail, err := f.read(size, r)
	w.chunks = f.chunks // keep the memory
	if err != nil {
		return 0, err
	}
	inline := inodeSize + len(a.Xattrs) + len(tail)
	if len(tail) > 0 && f.holes == 0 && inline <= blockSize {
		return w.inode(a, layoutInline, size, f.start(), tail)
	}
	if len(tail) > 0 {
		if err := f.block(tail); err != nil {
			return 0, err
		}
		w.chunks = f.chunks
	}
	if f.holes == 0 {
		return w.inode(a, layoutPlain, size, f.start(), nil)
	}
	return f.inode(a, size, blocks)
}

// small writes a file that fits into a block with its inode.
func (w *Writer) small(a Attr, size int64, r io.Reader) (Inode, error) {
	b := w.in[:size]
	if err := readFull(r, b); err != nil {
		return 0, err
	}
	if size == 0 {
		return w.inode(a, layoutPlain, 0, 0, nil)
	}
	return w.inode(a, layoutInline, size, 0, b)
}

// chunked is a file that is being written. A chunk is a run of 1<<shift blocks; it is a
// hole until something other than zeros is read of it.
type chunked struct {
	w      *Writer
	shift  int
	chunks []uint32 // start block of each, nullBlock for a hole
	count  uint64   // blocks so far
	holes  int      // chunks that are holes
}

// read reads all whole blocks, and returns the partial last one.
func (f *chunked) read(size int64, r io.Reader) (tail []byte, err error) {
	for size > 0 {
		b := f.w.in[:min(size, int64(len(f.w.in)))]
		if err := readFull(r, b); err != nil {
			return nil, err
		}
		size -= int64(len(b))
		for ; len(b) >= blockSize; b = b[blockSize:] {
			if err := f.block(b[:blockSize]); err != nil {
				return nil, err
			}
		}
		tail = b
	}
	return tail, nil
}

func (f *chunked) block(b []byte) error {
	within := f.count & (1<<f.shift - 1)
	f.count++
	if within == 0 {
		f.chunks = append(f.chunks, nullBlock)
		f.holes++
	}
	last := &f.chunks[len(f.chunks)-1]
	if *last == nullBlock {
		if isZero(b) {
			return nil
		}
		*last = uint32(f.w.next)
		f.holes--
		f.w.next += within // the zeros before it in this chunk are skipped in the image file, too
	}
	return f.w.emit(b)
}

// start is the first block of a file without holes.
func (f *chunked) start() uint32 {
	if len(f.chunks) == 0 {
		return 0
	}
	return f.chunks[0]
}

// inode writes the inode of a file with holes. A file that is all holes gets one chunk,
// whatever its size.
func (f *chunked) inode(a Attr, size int64, blocks uint64) (Inode, error) {
	if f.holes == len(f.chunks) {
		f.shift, f.chunks = bits.Len64(blocks-1), f.chunks[:1]
	}
	f.w.incompat |= incompatChunked
	table := make([]byte, 0, 4*len(f.chunks))
	for _, c := range f.chunks {
		table = binary.LittleEndian.AppendUint32(table, c)
	}
	return f.w.inode(a, layoutChunked, size, uint32(f.shift), table)
}

var zeros [blockSize]byte

func isZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// readFull fills b; an early end is io.ErrUnexpectedEOF.
func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if err == io.EOF && len(b) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

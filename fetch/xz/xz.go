// Package xz reads untrusted .xz streams within a bound of memory. It reads the
// container itself and leaves only the LZMA2 data to the library: the library's
// container reader takes as much memory as a block header asks for, up to 4 GiB. The
// format: https://tukaani.org/xz/xz-file-format.txt
//
// It supports no filter but LZMA2. Sizes are in bytes.
package xz

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/ulikunitz/xz/lzma"
)

var (
	errXZ = errors.New("damaged xz data")
)

// Magic is what a stream begins with.
const Magic = "\xfd7zXZ\x00"

const lzma2Filter = 0x21

// Reader reads a sequence of xz streams.
type Reader struct {
	r     *countReader
	most  int64     // bytes of a window
	block io.Reader // LZMA2 data of the current block; nil between blocks
	now   sizes     // of the current block
	start int64     // where its data began
	head  int64     // bytes of its header
	said  sizes     // by its header; -1: nothing
	check hash.Hash // of the block's data; nil if the stream has none
	kind  byte
	done  uint64    // blocks of this stream so far
	seen  hash.Hash // of their sizes, which the index repeats
}

// sizes are a block's, in bytes.
type sizes struct{ packed, data int64 }

// countReader counts the bytes read: padding depends on that.
type countReader struct {
	*bufio.Reader
	n   int64
	sum hash.Hash32 // of the index's bytes while it is read; else nil
}

func (c *countReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	if c.sum != nil {
		_, _ = c.sum.Write(b[:n]) // never fails (hash.Hash)
	}
	return n, err
}

func (c *countReader) ReadByte() (byte, error) {
	b, err := c.Reader.ReadByte()
	if err == nil {
		c.n++
		if c.sum != nil {
			_, _ = c.sum.Write([]byte{b}) // never fails (hash.Hash)
		}
	}
	return b, err
}

// NewReader returns a reader of a sequence of streams. It takes little more memory than
// window bytes, and refuses streams that need a larger window. It reads single bytes
// from r, so r should be a large *bufio.Reader.
func NewReader(r io.Reader, window int64) (*Reader, error) {
	b, ok := r.(*bufio.Reader)
	if !ok {
		b = bufio.NewReaderSize(r, 64<<10)
	}
	x := &Reader{r: &countReader{Reader: b}, most: window}
	return x, x.streamHeader()
}

// Read returns io.EOF only after the footer of the last stream.
func (x *Reader) Read(b []byte) (int, error) {
	for {
		if x.block == nil {
			if err := x.nextBlock(); err != nil {
				return 0, err
			}
		}
		n, err := x.block.Read(b)
		x.now.data += int64(n)
		if x.check != nil {
			x.check.Write(b[:n])
		}
		if err == io.EOF {
			x.block = nil
			err = x.endBlock()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (x *Reader) bytes(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(x.r, b); err != nil {
		return nil, unexpected(err)
	}
	return b, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (x *Reader) streamHeader() error {
	b, err := x.bytes(12)
	if err != nil {
		return err
	}
	if string(b[:6]) != Magic || b[6] != 0 || !crcOK(b[6:]) {
		return errXZ
	}
	x.kind, x.done, x.seen = b[7], 0, sha256.New()
	switch x.kind {
	case 0:
		x.check = nil
	case 1:
		x.check = crc32.NewIEEE()
	case 4:
		x.check = crc64.New(crc64.MakeTable(crc64.ECMA))
	case 10:
		x.check = sha256.New()
	default:
		return fmt.Errorf("%w: check of type %d", errXZ, x.kind)
	}
	return nil
}

// crcOK reports whether a structure ends with the CRC32 of the bytes before it.
func crcOK(b []byte) bool {
	n := len(b) - 4
	return crc32.ChecksumIEEE(b[:n]) == binary.LittleEndian.Uint32(b[n:])
}

// nextBlock reads a block's header, or the end of the stream and the header of
// the next one. io.EOF means that there is none.
func (x *Reader) nextBlock() error {
	for {
		size, err := x.r.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if size != 0 {
			return x.blockHeader(size)
		}
		if err := x.endStream(); err != nil {
			return err
		}
		if err := x.streamHeader(); err != nil {
			return err
		}
	}
}

func (x *Reader) blockHeader(size byte) error {
	rest, err := x.bytes(int(size)*4 + 3)
	if err != nil {
		return err
	}
	b := append([]byte{size}, rest...)
	if !crcOK(b) {
		return errXZ
	}
	flags, b := b[1], b[2:len(b)-4]
	if flags&0x3F != 0 { // reserved, or more than one filter
		return fmt.Errorf("%w: only plain LZMA2 is supported", errXZ)
	}
	x.said = sizes{-1, -1}
	for i, said := range []*int64{&x.said.packed, &x.said.data} { // both may be missing
		if flags>>(6+i)&1 == 0 {
			continue
		}
		v, n := binary.Uvarint(b)
		if n <= 0 || v > math.MaxInt64 {
			return errXZ
		}
		*said, b = int64(v), b[n:]
	}
	if len(b) < 3 || b[0] != lzma2Filter || b[1] != 1 {
		return fmt.Errorf("%w: only plain LZMA2 is supported", errXZ)
	}
	if strings.Trim(string(b[3:]), "\x00") != "" {
		return errXZ // padding
	}
	window, err := lzma.DecodeDictCap(b[2])
	if err != nil || window > x.most {
		return fmt.Errorf("xz data with a window of %d bytes, at most %d are supported", window, x.most)
	}
	if x.check != nil {
		x.check.Reset()
	}
	x.done++
	x.now, x.start, x.head = sizes{}, x.r.n, int64(size)*4+4
	x.block, err = lzma.Reader2Config{DictCap: int(window)}.NewReader2(x.r)
	return err
}

func (x *Reader) endBlock() error {
	x.now.packed = x.r.n - x.start
	if x.said.packed >= 0 && x.said.packed != x.now.packed || x.said.data >= 0 && x.said.data != x.now.data {
		return fmt.Errorf("%w: wrong size", errXZ)
	}
	if err := x.padding(x.now.packed); err != nil {
		return err
	}
	checked := 0
	if x.check != nil {
		checked = x.check.Size()
	}
	record(x.seen, uint64(x.head+x.now.packed+int64(checked)), uint64(x.now.data))
	if x.check == nil {
		return nil
	}
	want, err := x.bytes(x.check.Size())
	if err != nil {
		return err
	}
	got := x.check.Sum(nil)
	if x.kind != 10 { // CRCs stand there little-endian
		slices.Reverse(got)
	}
	if string(got) != string(want) {
		return fmt.Errorf("%w: wrong checksum", errXZ)
	}
	return nil
}

// record notes a block's sizes as an index has them.
func record(to hash.Hash, unpadded, data uint64) {
	b := binary.BigEndian.AppendUint64(nil, unpadded)
	to.Write(binary.BigEndian.AppendUint64(b, data))
}

// padding reads the zeros that fill n up to a multiple of four.
func (x *Reader) padding(n int64) error {
	b, err := x.bytes(int(-n & 3))
	for _, c := range b {
		if c != 0 {
			return errXZ
		}
	}
	return err
}

// varint reads a number of the index.
func (x *Reader) varint() (uint64, error) {
	before := x.r.n
	v, err := binary.ReadUvarint(x.r)
	if err != nil {
		return 0, unexpected(err)
	}
	if x.r.n-before != int64(len(binary.AppendUvarint(nil, v))) { // as short as can be
		return 0, errXZ
	}
	return v, nil
}

// endStream reads the index after its first, zero byte, the footer, and the padding up
// to the next stream. io.EOF means that there is none.
func (x *Reader) endStream() error {
	start := x.r.n - 1
	x.r.sum = crc32.NewIEEE()
	_, _ = x.r.sum.Write([]byte{0}) // never fails (hash.Hash)
	blocks, err := x.varint()
	if err != nil || blocks != x.done {
		return errors.Join(errXZ, err)
	}
	listed := sha256.New()
	for range blocks {
		unpadded, err := x.varint()
		if err != nil {
			return err
		}
		data, err := x.varint()
		if err != nil {
			return err
		}
		record(listed, unpadded, data)
	}
	if !bytes.Equal(listed.Sum(nil), x.seen.Sum(nil)) {
		return fmt.Errorf("%w: its index lists other blocks", errXZ)
	}
	if err := x.padding(x.r.n - start); err != nil {
		return err
	}
	size, sum := x.r.n-start+4, x.r.sum.Sum32()
	x.r.sum = nil
	b, err := x.bytes(4 + 12) // the index's CRC; the footer
	if err != nil {
		return err
	}
	le, foot := binary.LittleEndian, b[4:]
	if le.Uint32(b) != sum || string(foot[10:]) != "YZ" || foot[8] != 0 || foot[9] != x.kind ||
		crc32.ChecksumIEEE(foot[4:10]) != le.Uint32(foot) || (int64(le.Uint32(foot[4:]))+1)*4 != size {
		return errXZ
	}
	for {
		next, err := x.r.Peek(4)
		switch {
		case len(next) == 0:
			return err
		case len(next) < 4:
			return errXZ
		case string(next) != "\x00\x00\x00\x00":
			return nil
		}
		if _, err := x.bytes(4); err != nil {
			return err
		}
	}
}

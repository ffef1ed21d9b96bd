package rootfs

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"slices"

	"github.com/ulikunitz/xz/lzma"
)

// The .xz container is read here and only its LZMA2 data by the library: that
// one's own container reader takes whatever memory a block header asks for, up
// to 4 GiB. The format: https://tukaani.org/xz/xz-file-format.txt

var (
	xzMagic = []byte("\xfd7zXZ\x00")
	errXZ   = errors.New("damaged xz data")
)

const lzma2Filter = 0x21

// xzReader reads a sequence of xz streams.
type xzReader struct {
	r     *countReader
	block io.Reader // LZMA2 data of the block in work; nil between two
	start int64     // where that data began
	check hash.Hash // of the block's data; nil if the stream has none
	kind  byte
	done  uint64 // blocks of this stream so far
}

// countReader counts what is read, which the padding depends on.
type countReader struct {
	*bufio.Reader
	n int64
}

func (c *countReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *countReader) ReadByte() (byte, error) {
	b, err := c.Reader.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

func newXZReader(r *bufio.Reader) (*xzReader, error) {
	x := &xzReader{r: &countReader{Reader: r}}
	return x, x.streamHeader()
}

// Read returns io.EOF only behind the footer of the last stream.
func (x *xzReader) Read(b []byte) (int, error) {
	for {
		if x.block == nil {
			if err := x.nextBlock(); err != nil {
				return 0, err
			}
		}
		n, err := x.block.Read(b)
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

func (x *xzReader) bytes(n int) ([]byte, error) {
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

func (x *xzReader) streamHeader() error {
	b, err := x.bytes(12)
	if err != nil {
		return err
	}
	if string(b[:6]) != string(xzMagic) || b[6] != 0 || !crcOK(b[6:]) {
		return errXZ
	}
	x.kind, x.done = b[7], 0
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

// crcOK reports whether a structure ends in the CRC32 of what stands before.
func crcOK(b []byte) bool {
	n := len(b) - 4
	return crc32.ChecksumIEEE(b[:n]) == binary.LittleEndian.Uint32(b[n:])
}

// nextBlock reads a block's header, or the end of the stream and the header of
// the next one. io.EOF means that there is none.
func (x *xzReader) nextBlock() error {
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

func (x *xzReader) blockHeader(size byte) error {
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
	for range int(flags>>6&1) + int(flags>>7) { // the two optional sizes
		_, n := binary.Uvarint(b)
		if n <= 0 {
			return errXZ
		}
		b = b[n:]
	}
	if len(b) < 3 || b[0] != lzma2Filter || b[1] != 1 {
		return fmt.Errorf("%w: only plain LZMA2 is supported", errXZ)
	}
	window, err := lzma.DecodeDictCap(b[2])
	if err != nil || window > maxWindow {
		return fmt.Errorf("xz data with a window of %d bytes, at most %d are supported", window, maxWindow)
	}
	if x.check != nil {
		x.check.Reset()
	}
	x.done++
	x.start = x.r.n
	x.block, err = lzma.Reader2Config{DictCap: int(window)}.NewReader2(x.r)
	return err
}

func (x *xzReader) endBlock() error {
	if err := x.padding(x.r.n - x.start); err != nil {
		return err
	}
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

// padding reads the zeros that fill n up to a multiple of four.
func (x *xzReader) padding(n int64) error {
	b, err := x.bytes(int(-n & 3))
	for _, c := range b {
		if c != 0 {
			return errXZ
		}
	}
	return err
}

// endStream reads index and footer, behind the index's zero byte, and the
// padding up to the next stream. io.EOF means that there is none.
func (x *xzReader) endStream() error {
	start := x.r.n - 1
	blocks, err := binary.ReadUvarint(x.r)
	if err != nil || blocks != x.done {
		return errors.Join(errXZ, unexpected(err))
	}
	for range blocks * 2 { // the sizes, for seeking
		if _, err := binary.ReadUvarint(x.r); err != nil {
			return errors.Join(errXZ, unexpected(err))
		}
	}
	if err := x.padding(x.r.n - start); err != nil {
		return err
	}
	b, err := x.bytes(4 + 12) // the index's CRC; the footer
	if err != nil {
		return err
	}
	foot := b[4:]
	if string(foot[10:]) != "YZ" || foot[9] != x.kind || crc32.ChecksumIEEE(foot[4:10]) != binary.LittleEndian.Uint32(foot) {
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

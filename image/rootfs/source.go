package rootfs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"banger/fetch/xz"
)

// maxWindow bounds the memory for decompressing a stream, in bytes.
const maxWindow = 64 << 20

// maxPadding bounds the bytes after a tar's end mark: tools fill up the last record, of
// 10 KiB usually.
const maxPadding = 1 << 20

// roomEvery is how many bytes are read between two looks at the disk's free room.
const roomEvery = 16 << 20

var (
	errEndless = errors.New("it is larger than an image may be (image_max_gib in config.toml)")
	errNoEnd   = fmt.Errorf("there is no end mark: %w", io.ErrUnexpectedEOF)
)

// source is the tar in the caller's stream: decompressed and bounded. It also knows why
// the stream ended.
type source struct {
	ctx   context.Context
	raw   *rawReader
	tar   io.Reader
	close func()
	read  int64 // bytes of tar so far
	limit int64 // the most there may be
	room  func() error
	asked int64     // how much was read at the last look at the disk's room
	ended bool      // the stream has ended
	sum   hash.Hash // of the tar; nil when nobody asks
}

// rawReader remembers why the caller's reader stopped, which a decompressor
// may hide.
type rawReader struct {
	r      io.Reader
	failed error // other than io.EOF
}

func (r *rawReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err != nil && err != io.EOF {
		r.failed = err
	}
	return n, err
}

// openSource opens a stream; its first bytes say how it is compressed.
func openSource(ctx context.Context, stream io.Reader, limit int64) (*source, error) {
	s := &source{ctx: ctx, raw: &rawReader{r: stream}, limit: limit}
	tar, closer, err := Decompress(s.raw)
	s.tar, s.close = tar, closer
	return s, err
}

// Decompress returns what is in a stream: its first bytes say how it is compressed (gzip,
// xz, zstd or not at all). At most 64 MiB of memory are used for that, until done is called.
func Decompress(stream io.Reader) (plain io.Reader, done func(), err error) {
	b := bufio.NewReaderSize(stream, 256<<10)
	plain, done = b, func() {}
	magic, err := b.Peek(6)
	switch {
	case err != nil && err != io.EOF:
		return plain, done, err
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		plain, err = gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		var z *zstd.Decoder
		z, err = zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err == nil {
			plain, done = z, z.Close
		}
	case bytes.HasPrefix(magic, []byte(xz.Magic)):
		plain, err = xz.NewReader(b, maxWindow)
	default:
		err = nil
	}
	return plain, done, err
}

func (s *source) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.read >= s.limit {
		return 0, errEndless
	}
	if s.read == 0 || s.read-s.asked >= roomEvery {
		if err := s.room(); err != nil {
			return 0, err
		}
		s.asked = s.read
	}
	n, err := s.tar.Read(b)
	s.read += int64(n)
	if s.sum != nil {
		s.sum.Write(b[:n])
	}
	switch {
	case err == io.EOF && n > 0: // tell the end apart from the bytes before it
		err = nil
	case err == io.EOF:
		s.ended = true
	}
	return n, err
}

// finish reads the rest of the stream after the tar's end mark, with the compressor's
// checksum. Without an end mark it returns an error: a stream that was cut off between
// two entries would look complete.
func (s *source) finish() error {
	if s.ended && s.sum == nil { // a sum shows it, too
		return errNoEnd
	}
	n, err := io.CopyN(io.Discard, s, maxPadding)
	if err == nil {
		return fmt.Errorf("it goes on for over %d bytes after its end mark", n)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

package rootfs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds what a compressed stream may ask us to remember.
const maxWindow = 64 << 20

// maxPadding bounds what may follow a tar's end mark: tools fill up their
// last record, of 10 KiB usually.
const maxPadding = 1 << 20

var (
	errEndless = errors.New("there is more of it than any image may hold")
	errNoEnd   = fmt.Errorf("there is no end mark: %w", io.ErrUnexpectedEOF)
)

// source is the tar inside the caller's stream: decompressed, bounded, and
// knowing why it ended.
type source struct {
	ctx   context.Context
	raw   *rawReader
	tar   io.Reader
	close func()
	read  int64 // bytes of tar so far
	limit int64 // and at most
	ended bool  // the stream's end was met
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

// openSource finds out by its first bytes how a stream is compressed.
func openSource(ctx context.Context, stream io.Reader, limit int64) (*source, error) {
	s := &source{ctx: ctx, raw: &rawReader{r: stream}, limit: limit, close: func() {}}
	b := bufio.NewReaderSize(s.raw, 256<<10)
	s.tar = b
	magic, err := b.Peek(6)
	switch {
	case err != nil && err != io.EOF:
		return s, err
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		s.tar, err = gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		var z *zstd.Decoder
		z, err = zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err == nil {
			s.tar, s.close = z, z.Close
		}
	case bytes.HasPrefix(magic, xzMagic):
		s.tar, err = newXZReader(b)
	default:
		err = nil
	}
	return s, err
}

func (s *source) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.read >= s.limit {
		return 0, errEndless
	}
	n, err := s.tar.Read(b)
	s.read += int64(n)
	switch {
	case err == io.EOF && n > 0: // tell the end apart from the bytes before it
		err = nil
	case err == io.EOF:
		s.ended = true
	}
	return n, err
}

// finish reads what follows the end of the tar, which it demands to have been
// marked: a stream cut off between two entries looks whole otherwise. The rest
// holds the compressor's checksum.
func (s *source) finish() error {
	if s.ended {
		return errNoEnd
	}
	n, err := io.CopyN(io.Discard, s, maxPadding)
	if err == nil {
		return fmt.Errorf("it goes on for over %d bytes behind its end mark", n)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

package oci

import (
	"bufio"
	"context"
	"io"

	"banger"
	"banger/image/rootfs"
)

// Store keeps filesystem images; it implements banger.Images.
type Store struct {
	*rootfs.Store
}

// Import implements banger.Images.
func (s *Store) Import(ctx context.Context, stream io.Reader, p banger.Progress) (banger.Image, error) {
	b := bufio.NewReaderSize(stream, headBytes)
	head, err := peek(b)
	if err != nil || !isArchive(head) {
		return s.Store.Import(ctx, rest{b, stream}, p) // which reports the error
	}
	file, err := s.Scratch()
	if err != nil {
		return banger.Image{}, err
	}
	defer func() { _ = file.Close() }()
	return s.importArchive(ctx, rest{b, stream}, file, p)
}

// peek returns the stream's first bytes, as many as are needed to see its first entry.
func peek(b *bufio.Reader) ([]byte, error) {
	head, err := b.Peek(headBytes)
	if err == io.EOF {
		err = nil
	}
	return head, err
}

// rest is a stream of which something was read ahead.
type rest struct {
	io.Reader
	stream io.Reader
}

// Close closes the stream, to interrupt a read.
func (r rest) Close() error {
	if c, ok := r.stream.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

package shim

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"banger/guest/link"
)

// On a Unix socket a stream that broke looks like one that has ended. If a client asks for it,
// the guest's bytes are sent in pieces, each after its length in 4 bytes, big-endian; a piece
// of length 0 is the stream's end.

// maxPiece bounds a piece, in bytes.
const maxPiece = 32 << 10

// ErrBroken is the error of Read when a stream of DialEnds broke before its end.
var ErrBroken = errors.New("the stream to the guest broke")

// DialEnds is Dial for protocols that don't mark their end: Read returns io.EOF if the guest
// has ended the stream, and ErrBroken if it broke. With an older shim sure is false, and the
// connection is as Dial's.
func DialEnds(ctx context.Context, dir string) (conn net.Conn, sure bool, err error) {
	c, a, err := dial(ctx, dir, true)
	switch {
	case err != nil:
		return nil, false, err
	case !a.Ends:
		return c, false, nil
	}
	return &pieces{UnixConn: c, r: bufio.NewReaderSize(c, maxPiece)}, true, nil
}

// pieces reads what piecewise wrote.
type pieces struct {
	*net.UnixConn
	r     *bufio.Reader
	left  int  // of the present piece
	ended bool // the end was read
}

// Read returns the guest's bytes, then io.EOF, or ErrBroken if the stream broke.
func (p *pieces) Read(b []byte) (int, error) {
	if p.ended {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, nil
	}
	if p.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(p.r, head[:]); err != nil {
			return 0, broke(err)
		}
		size := binary.BigEndian.Uint32(head[:])
		if size > maxPiece {
			return 0, fmt.Errorf("%w: a piece of %d bytes", ErrBroken, size)
		}
		p.left, p.ended = int(size), size == 0
		if p.ended {
			return 0, io.EOF
		}
	}
	n, err := p.r.Read(b[:min(len(b), p.left)])
	p.left -= n
	if n > 0 {
		return n, nil
	}
	return 0, broke(err)
}

// WriteTo hides the connection's own, which would also copy the lengths.
func (p *pieces) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{p})
}

func broke(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return ErrBroken
	}
	return err
}

// piecewise copies a stream in pieces, up to its end and the piece that marks it.
func piecewise(conn net.Conn, stream *link.Stream) error {
	buf := make([]byte, 4+maxPiece)
	for {
		n, err := stream.Read(buf[4:])
		if n > 0 || err == io.EOF {
			binary.BigEndian.PutUint32(buf, uint32(n))
			if _, err := conn.Write(buf[:4+n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && n == 0:
			return nil
		case err != nil && err != io.EOF:
			return err
		}
	}
}

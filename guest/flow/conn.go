// Package flow is connections into and out of a guest: what a client asks the agent for, and
// how a stream carries one connection so that its end is told from a break.
//
// It knows nothing of who makes them in the guest, or of what they are for.
package flow

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"banger/guest"
)

// ErrBroken is the error of a Conn whose stream broke before the other side ended it.
var ErrBroken = errors.New("the connection to the guest broke")

// Sizes of a Conn, in bytes. A piece with its length takes one frame of package link.
const (
	pieceHead = 2
	maxPiece  = guest.FrameHeader + guest.BulkData - pieceHead
	// MaxDatagram is the longest datagram that a Conn carries, of UDP over IPv4.
	MaxDatagram = 65507
)

// Conn is one connection that was made in a guest, carried by a stream. Each side sends
// pieces: a length in two bytes, big-endian, then that many bytes. So an end that the
// other side meant is told from a stream that broke, and a datagram from the next one.
//
// Of a connection that is a stream of bytes, a piece of length 0 ends its direction; the
// other one goes on. Reads and writes may go on at the same time.
type Conn struct {
	conn      net.Conn
	datagrams bool

	r     *bufio.Reader
	left  int  // of the piece that is being read
	ended bool // the other side has ended its direction

	mu     sync.Mutex // guards what follows, and the order of pieces
	buf    []byte
	closed bool // our direction was ended
}

// New returns a flow over a stream that r reads. With datagrams each Read and Write is
// one datagram.
func New(conn net.Conn, r *bufio.Reader, datagrams bool) *Conn {
	return &Conn{conn: conn, r: r, datagrams: datagrams}
}

// Read returns bytes of the other side: io.EOF after those that it meant to send,
// ErrBroken if the stream broke before. Of a datagram longer than b the rest is lost.
func (c *Conn) Read(b []byte) (int, error) {
	switch {
	case len(b) == 0:
		return 0, nil
	case c.ended:
		return 0, io.EOF
	}
	if c.left == 0 {
		var head [pieceHead]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return 0, c.broke(err)
		}
		c.left = int(binary.BigEndian.Uint16(head[:]))
		if c.datagrams {
			return c.datagram(b)
		}
		if c.ended = c.left == 0; c.ended {
			return 0, io.EOF
		}
	}
	n, err := c.r.Read(b[:min(len(b), c.left)])
	c.left -= n
	if n > 0 {
		return n, nil
	}
	return 0, c.broke(err)
}

// datagram reads one whole.
func (c *Conn) datagram(b []byte) (int, error) {
	n, err := io.ReadFull(c.r, b[:min(len(b), c.left)])
	if err == nil {
		_, err = c.r.Discard(c.left - n)
	}
	c.left = 0
	if err != nil {
		return 0, c.broke(err)
	}
	return n, nil
}

// broke is what an error of the stream means. The end of a stream of datagrams is theirs.
func (c *Conn) broke(err error) error {
	switch {
	case c.datagrams && err == io.EOF:
		c.ended = true
		return io.EOF
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return ErrBroken
	}
	return err
}

// Write sends bytes, or one datagram.
func (c *Conn) Write(b []byte) (int, error) {
	if c.datagrams && len(b) > MaxDatagram {
		return 0, fmt.Errorf("a datagram of %d bytes is over the limit of %d", len(b), MaxDatagram)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.datagrams {
		return len(b), c.piece(b)
	}
	for sent := 0; ; {
		if sent == len(b) {
			return sent, nil
		}
		n := min(len(b)-sent, maxPiece)
		if err := c.piece(b[sent : sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
}

// piece writes one piece. It needs c.mu.
func (c *Conn) piece(b []byte) error {
	if c.closed {
		return net.ErrClosed
	}
	c.buf = append(binary.BigEndian.AppendUint16(c.buf[:0], uint16(len(b))), b...)
	_, err := c.conn.Write(c.buf)
	return err
}

// ReadFrom sends what r has until its end.
func (c *Conn) ReadFrom(r io.Reader) (total int64, err error) {
	if c.datagrams {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	buf := make([]byte, pieceHead+maxPiece)
	for {
		n, err := r.Read(buf[pieceHead:])
		if n > 0 {
			binary.BigEndian.PutUint16(buf, uint16(n))
			if err := c.whole(buf[:pieceHead+n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// whole writes a piece that has its length already.
func (c *Conn) whole(piece []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	_, err := c.conn.Write(piece)
	return err
}

// gone waits for the stream's end, after the other side has ended its direction: it may
// leave before we have ended ours.
func (c *Conn) gone() { _, _ = c.r.WriteTo(io.Discard) }

// CloseWrite ends our direction; the other side's goes on.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.datagrams {
		return nil
	}
	c.closed = true
	_, err := c.conn.Write(make([]byte, pieceHead))
	return err
}

// Close breaks the stream. The other side sees its end, if CloseWrite came before, else
// ErrBroken.
func (c *Conn) Close() error { return c.conn.Close() }

// LocalAddr returns the stream's own.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the stream's own.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline is the stream's.
func (c *Conn) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

// SetReadDeadline is the stream's.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline is the stream's.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// Duplex is a connection each of whose directions can be ended.
type Duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Join copies between two connections until both directions have ended, then closes both.
// The end of one side's direction is passed on to the other; after an error both are reset
// where they can be (net.TCPConn, SetLinger), so that nobody takes a part for the whole.
func Join(a, b Duplex) {
	done := make(chan struct{}, 2)
	half := func(to, from Duplex) {
		_, err := io.Copy(to, from)
		if err == nil {
			err = to.CloseWrite()
		}
		if err != nil {
			reset(a)
			reset(b)
		} else if f, ok := from.(*Conn); ok {
			go func() {
				f.gone()
				_ = to.Close() // what it was sent is still delivered
			}()
		}
		done <- struct{}{}
	}
	go half(a, b)
	half(b, a)
	<-done
	<-done
	_ = a.Close()
	_ = b.Close()
}

// reset closes a connection so that the other side sees no end, where it can be told.
func reset(c Duplex) {
	if t, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

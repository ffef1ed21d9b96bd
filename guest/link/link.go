// Package link carries many streams over one byte pipe that can't be trusted:
// a virtio-serial port, which loses what is written while nobody listens,
// delivers a dead host's last bytes to the next one, tears frames in two and
// hides a quick reconnect from the guest. Each side opens with a random epoch;
// frames carry the tag of the session both epochs make, a sequence number and
// checksums, so a byte of an earlier session never reaches a stream and a lost
// one ends the session instead of corrupting it.
//
// It owns framing, the handshake, flow control and fairness. It refuses to know
// what the streams say, how the pipe was made, and whether a broken stream is
// worth taking up again: streams end with [ErrReset], resuming is the caller's.
//
// # The wire
//
// A frame is a header of 32 bytes, big endian, and up to 32 KiB of payload:
//
//	magic 4 | kind 1 | zero 1 | length 2 | stream 4 | sequence 4 | tag 8 | payload CRC-32C 4 | header CRC-32C 4
//
// HELLO (tag 0) says the versions spoken, the sender's epoch and the epoch it
// knows of its peer, or 0. A HELLO with a new epoch ends all streams and is
// answered; one with a known epoch that doesn't echo ours is answered too. Who
// is echoed, or gets a frame with the right tag, knows that the peer is there.
// Bytes of a pipe keep their order, so a stale HELLO always comes before the
// live one and the last one wins; no timer is needed. A HELLO that opens a pipe
// or answers a new epoch comes after a frame's length of zeros: half a frame,
// left behind by a predecessor, completes with them and fails its checksum.
package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// Versions of the wire format this package speaks.
const (
	minVersion = 1
	maxVersion = 1
)

// Bounds. A peer that goes beyond them is cut off, so a session never holds
// more than MaxStreams × (Window + sendBuffer) bytes.
const (
	// MaxStreams is how many streams may be open at a time.
	MaxStreams = 128
	// Window is how many bytes of one stream may be on their way, unread.
	Window = 256 << 10

	maxPayload = 32 << 10
	sendBuffer = 64 << 10 // written by the application, not yet framed
	batchSize  = 64 << 10 // what is framed ahead of one write to the pipe
	headerSize = 32
	helloSize  = 24
)

type kind uint8

const (
	kindHello  kind = 1 + iota
	kindOpen        // the host opens a stream; ids only ever grow
	kindData        // bytes, at most what CREDIT allows
	kindCredit      // uint32: so many more bytes may be sent
	kindFin         // no more DATA from here
	kindReset       // one byte of reason: the sender has forgotten the stream
)

// Reasons of a RESET.
const (
	reasonClosed   = 0 // the application is done with it
	reasonRefused  = 1 // too many streams
	reasonProtocol = 2 // the window was overrun, or DATA after FIN
)

var (
	magic      = []byte{0xb4, 'n', 'g', 0xa7}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      [headerSize + maxPayload]byte
)

// frame is one frame as read; the payload is valid until the next is read.
type frame struct {
	kind    kind
	stream  uint32
	seq     uint32
	tag     uint64
	payload []byte
}

// appendFrame encodes a frame. The payload is at most maxPayload bytes.
func appendFrame(b []byte, f frame) []byte {
	at := len(b)
	b = append(b, magic...)
	b = append(b, byte(f.kind), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.payload)))
	b = binary.BigEndian.AppendUint32(b, f.stream)
	b = binary.BigEndian.AppendUint32(b, f.seq)
	b = binary.BigEndian.AppendUint64(b, f.tag)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(f.payload, castagnoli))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
	return append(b, f.payload...)
}

// scanner finds frames in a stream of bytes that may hold anything. Its memory
// is one buffer of fixed size.
type scanner struct {
	r          io.Reader
	buf        []byte
	start, end int
}

func newScanner(r io.Reader) *scanner {
	return &scanner{r: r, buf: make([]byte, 2*(headerSize+maxPayload))}
}

// next returns the next intact frame and skips whatever isn't one. The only
// errors are the reader's.
func (s *scanner) next() (frame, error) {
	for {
		i := bytes.Index(s.buf[s.start:s.end], magic)
		if i < 0 {
			// The magic may have begun in the last bytes.
			s.start = max(s.start, s.end-len(magic)+1)
			if err := s.fill(); err != nil {
				return frame{}, err
			}
			continue
		}
		s.start += i
		if err := s.need(headerSize); err != nil {
			return frame{}, err
		}
		h := s.buf[s.start : s.start+headerSize]
		length := int(binary.BigEndian.Uint16(h[6:]))
		if crc32.Checksum(h[:28], castagnoli) != binary.BigEndian.Uint32(h[28:]) || length > maxPayload {
			s.start++
			continue
		}
		if err := s.need(headerSize + length); err != nil {
			return frame{}, err
		}
		h = s.buf[s.start : s.start+headerSize]
		payload := s.buf[s.start+headerSize : s.start+headerSize+length]
		if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(h[24:]) {
			s.start++ // a frame may begin inside what this header claimed
			continue
		}
		s.start += headerSize + length
		return frame{
			kind:    kind(h[4]),
			stream:  binary.BigEndian.Uint32(h[8:]),
			seq:     binary.BigEndian.Uint32(h[12:]),
			tag:     binary.BigEndian.Uint64(h[16:]),
			payload: payload,
		}, nil
	}
}

// need reads until n bytes stand after start.
func (s *scanner) need(n int) error {
	for s.end-s.start < n {
		if err := s.fill(); err != nil {
			return err
		}
	}
	return nil
}

// fill reads once. What next asks for is at most half of the buffer, so after
// the move there is always room.
func (s *scanner) fill() error {
	if s.start == s.end {
		s.start, s.end = 0, 0
	}
	if s.start > len(s.buf)/2 {
		s.end = copy(s.buf, s.buf[s.start:s.end])
		s.start = 0
	}
	n, err := s.r.Read(s.buf[s.end:])
	s.end += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// queue holds the bytes of one direction of a stream.
type queue struct {
	b   []byte
	off int
}

func (q *queue) len() int { return len(q.b) - q.off }

func (q *queue) push(p []byte) {
	if q.off > 0 && len(q.b)+len(p) > cap(q.b) {
		q.b = q.b[:copy(q.b, q.b[q.off:])]
		q.off = 0
	}
	q.b = append(q.b, p...)
}

// first returns the next n bytes at most, valid until the next push.
func (q *queue) first(n int) []byte { return q.b[q.off : q.off+min(n, q.len())] }

func (q *queue) drop(n int) {
	q.off += n
	if q.off == len(q.b) {
		q.b, q.off = q.b[:0], 0
	}
}

// The errors of streams and of a Mux that callers branch on.
var (
	// ErrReset ends every stream of a session that is no more: the other side was
	// replaced or broke the protocol, or the pipe did. The text says which.
	ErrReset = errors.New("channel was reset")
	// ErrTooMany is returned by Open, and ends a stream the peer had no room for.
	ErrTooMany = errors.New("too many streams are open in this guest")
	// ErrClosed ends a stream whose other side has closed it.
	ErrClosed = errors.New("stream was closed by the other side")
)

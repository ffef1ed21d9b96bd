// Package link makes many streams of one unreliable byte pipe. A virtio-serial port loses
// what is written while nobody listens, delivers a dead host's last bytes to the next
// host, cuts frames in two, and doesn't show the guest a quick reconnect. Each side begins
// with a random epoch. Frames have a tag made of both epochs, a sequence number and
// checksums: so no byte of an earlier session reaches a stream, and a lost byte ends the
// session.
//
// It owns framing, the handshake, flow control and the order of sending. It knows nothing
// of what is sent or how the pipe was made. When a session ends, its streams end with
// [ErrReset], and the caller decides whether to open new ones. A read returns io.EOF only
// if the other side has ended the stream.
//
// # Turns
//
// Frames are sent in rounds. A round has credit and resets, then one frame of each control
// stream, then one of each stream with little to send, such as a keystroke, then bulk of
// one stream after the other. A round is about one write of a guest's port, so a keystroke
// waits only for that and for what is in the pipe already.
//
// # The wire
//
// A frame is a header of 32 bytes, big endian, and up to 32 KiB of payload; senders
// put so much into one that header and payload have 32 KiB:
//
//	magic 4 | kind 1 | zero 1 | length 2 | stream 4 | sequence 4 | tag 8 | payload checksum 4 | header CRC-32C 4
//
// HELLO (tag 0) has the sender's versions, its epoch and the epoch that it knows of its
// peer, or 0. A HELLO with a new epoch ends all streams and is answered; one with a known
// epoch that doesn't echo ours is answered, too. A side knows that its peer is there when
// the peer echoes its epoch or sends a frame with the right tag. Bytes in a pipe keep their
// order, so an old HELLO always comes before the present one, and the last one counts; no
// timer is needed. A HELLO that opens a pipe or answers a new epoch is sent after zeros of
// a frame's length: they complete a half frame that an earlier process may have left,
// which then fails its checksum.
//
// Version 2 is used if both sides have it. Streams begin with a window of 32 KiB, which
// grows to 96 KiB by credit while there is room, so that there may be a thousand streams. If the
// host says in its HELLO that it takes streams, the guest may send OPEN, with ids of its
// own half of the numbers.
//
// Version 3 is used if both sides have it. The checksum of a payload is the lower half of
// its xxHash64. For a HELLO, and in older versions, it is CRC-32C: QEMU emulates the
// instructions for that bit by bit: 160 MB a second, where xxHash64 does 7,000.
package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// Versions of the wire format this package speaks.
const (
	minVersion = 1
	maxVersion = 3
)

// Bounds. A peer that goes beyond them is cut off. A session of version 2 holds at
// most 1184 × (firstWindow + sendBuffer) + windowRoom = 139 MiB, one of version 1
// 128 × (Window + sendBuffer) = 40 MiB; a stream's buffers are at most twice as large
// as what they hold.
const (
	// MaxStreams is how many streams a host may have open at a time. ControlStreams
	// may be open beside them: users' can't take their places.
	MaxStreams     = 1024
	ControlStreams = 32
	guestStreams   = 128 // opened by the guest
	oldStreams     = 120 // of version 1, which knows 128 in all, control streams among them
	oldControl     = 8
	// Window is the most bytes of one stream that may be on their way, unread. So many may be
	// in version 1, and where an older peer's windows grow.
	Window = 256 << 10

	firstWindow = 32 << 10 // with which a stream begins
	grownWindow = 96 << 10 // to which it grows: what is on its way delays a keystroke
	windowRoom  = 28 << 20 // for all windows to grow: 448 of them fully

	maxPayload  = 32 << 10                // of a frame that is read
	sendPayload = maxPayload - headerSize // of one that is sent
	sendBuffer  = 64 << 10                // written by the application, not yet framed
	batchSize   = 64 << 10                // of a round: one packet of a guest's vsock, two writes of a port
	littleSize  = 1 << 10                 // the most that a stream with little to send has to send
	littleTurns = 16                      // such streams a round
	headerSize  = 32
	helloSize   = 24
)

// guestIDs is set in the ids of streams that the guest opened.
const guestIDs = 1 << 31

// takesStreams is set in the third byte of a host's HELLO if the guest may open streams.
const takesStreams = 1

// class says how many streams there may be and when they are sent. It is the first byte of
// an OPEN.
type class byte

const (
	classUser    class = iota
	classControl       // for managing the VM
	classGuest         // opened by the guest
	classes
)

type kind uint8

const (
	kindHello  kind = 1 + iota
	kindOpen        // a stream is opened, of the class in its first byte; ids only ever grow
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

// checksum is that of a frame's payload, in a session of a version.
func checksum(version byte, k kind, payload []byte) uint32 {
	if version < 3 || k == kindHello {
		return crc32.Checksum(payload, castagnoli)
	}
	return uint32(xxhash.Sum64(payload))
}

// appendFrame encodes a frame for a session of a version. The payload is at most
// maxPayload bytes.
func appendFrame(b []byte, version byte, f frame) []byte {
	at := len(b)
	b = append(b, magic...)
	b = append(b, byte(f.kind), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.payload)))
	b = binary.BigEndian.AppendUint32(b, f.stream)
	b = binary.BigEndian.AppendUint32(b, f.seq)
	b = binary.BigEndian.AppendUint64(b, f.tag)
	b = binary.BigEndian.AppendUint32(b, checksum(version, f.kind, f.payload))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
	return append(b, f.payload...)
}

// scanner finds frames in a stream of bytes that may hold anything. Its memory
// is one buffer of fixed size.
type scanner struct {
	r          io.Reader
	buf        []byte
	start, end int
	version    byte // of the session whose frames come; 0: nobody knows
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
		if !s.intact(kind(h[4]), payload, binary.BigEndian.Uint32(h[24:])) {
			s.start++ // this header was none: a frame may begin right after its first byte
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

// intact reports whether a payload is what its header says. What is there before the
// sides know each other is of a session before, of whatever version.
func (s *scanner) intact(k kind, payload []byte, sum uint32) bool {
	return checksum(s.version, k, payload) == sum || s.version == 0 && checksum(maxVersion, k, payload) == sum
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

// queue holds the bytes of one direction of a stream, in buffers that all streams
// use in turn.
type queue struct {
	bufs [][]byte
	off  int // how much of the first buffer was dropped
	n    int
}

// bulkBuffers are buffers for a frame's payload, littleBuffers those for a keystroke.
var (
	bulkBuffers   = sync.Pool{New: func() any { return new([sendPayload]byte) }}
	littleBuffers = sync.Pool{New: func() any { return new([littleSize]byte) }}
)

func (q *queue) len() int { return q.n }

func (q *queue) push(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		var last []byte
		if n := len(q.bufs); n > 0 {
			last = q.bufs[n-1]
		}
		if len(last) == cap(last) {
			if len(p) > littleSize || len(q.bufs) > 0 {
				last = bulkBuffers.Get().(*[sendPayload]byte)[:0]
			} else {
				last = littleBuffers.Get().(*[littleSize]byte)[:0]
			}
			q.bufs = append(q.bufs, nil)
		}
		k := min(len(p), cap(last)-len(last))
		q.bufs[len(q.bufs)-1] = append(last, p[:k]...)
		p = p[k:]
	}
}

// first returns up to n of the next bytes, valid until they are dropped.
func (q *queue) first(n int) []byte {
	if len(q.bufs) == 0 {
		return nil
	}
	b := q.bufs[0][q.off:]
	return b[:min(n, len(b))]
}

func (q *queue) drop(n int) {
	q.n -= n
	for q.off += n; len(q.bufs) > 0 && (q.off >= cap(q.bufs[0]) || q.n == 0); {
		b := q.bufs[0]
		q.off -= len(b)
		q.bufs[0] = nil
		q.bufs = q.bufs[1:]
		if cap(b) == littleSize {
			littleBuffers.Put((*[littleSize]byte)(b[:littleSize]))
		} else {
			bulkBuffers.Put((*[sendPayload]byte)(b[:sendPayload]))
		}
	}
	if len(q.bufs) == 0 {
		*q = queue{}
	}
}

// clear drops all.
func (q *queue) clear() { q.drop(q.n) }

// The errors of streams and of a Mux that callers branch on.
var (
	// ErrReset ends the streams of a session that has ended: the other side was replaced or
	// broke the protocol, or the pipe broke. The error's text says which.
	ErrReset = errors.New("channel was reset")
	// ErrTooMany is returned by Open, and ends a stream the peer had no room for.
	ErrTooMany = errors.New("too many streams are open in this guest")
	// ErrNotTaken is returned by Open in a guest whose host takes no streams.
	ErrNotTaken = errors.New("the host takes no streams from the guest")
	// ErrClosed ends a stream whose other side has closed it.
	ErrClosed = errors.New("stream was closed by the other side")
)

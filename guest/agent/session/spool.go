package session

import (
	"sync"

	"banger/guest"
)

// stdout and stderr index the arrays that hold something per output stream.
const (
	stdout = 0
	stderr = 1
)

// chunkOverhead is what a chunk counts for beside its bytes, so that a program which
// writes single bytes to its two streams in turn stays within the limit, too.
const chunkOverhead = 64

// smallChunk is the size up to which a chunk grows before it gets one of the large,
// reused buffers.
const smallChunk = 4096

// tinyChunk is what gets a buffer of its very size: of one of smallChunk most would be
// empty.
const tinyChunk = smallChunk / 4

// chunkBuffers are buffers of guest.BulkData, smallBuffers of smallChunk. They are used
// again and again.
var (
	chunkBuffers = sync.Pool{New: func() any { return new([guest.BulkData]byte) }}
	smallBuffers = sync.Pool{New: func() any { return new([smallChunk]byte) }}
)

func newBuffer() []byte { return chunkBuffers.Get().(*[guest.BulkData]byte)[:] }

func newSmall() []byte { return smallBuffers.Get().(*[smallChunk]byte)[:] }

func recycle(b []byte) {
	switch cap(b) {
	case guest.BulkData:
		chunkBuffers.Put((*[guest.BulkData]byte)(b[:guest.BulkData]))
	case smallChunk:
		smallBuffers.Put((*[smallChunk]byte)(b[:smallChunk]))
	}
}

// mustHold is how many bytes a spool can always hold, even if its chunks count for more
// than its limit. A client confirms every 64 KiB: with less it would wait for ever.
const mustHold = 128 << 10

// chunk is a run of bytes of one stream. Use its data only under the lock: once it is
// confirmed, its buffer is reused.
type chunk struct {
	stream int
	off    int64
	data   []byte
}

// charge is what a chunk counts for: its bytes, or half of its buffer if that is more. So
// a spool's memory is at most twice its limit.
func (c *chunk) charge() int { return max(len(c.data), cap(c.data)/2) + chunkOverhead }

func (c *chunk) end() int64 { return c.off + int64(len(c.data)) }

// spool keeps the output no client has confirmed, both streams in the order
// they were written. It has no lock of its own.
type spool struct {
	limit   int
	keeps   bool // what was confirmed stays, too, until its room is needed
	chunks  []chunk
	first   int64    // number of chunks removed so far: the index of chunks[0]
	size    int      // charge of all chunks
	bytes   int      // in all chunks
	end     [2]int64 // bytes written so far
	acked   [2]int64 // bytes a client has confirmed
	dropped [2]int64 // bytes removed before any client confirmed them; of a spool that keeps, all that were removed
}

func (s *spool) full() bool { s.trim(); return s.size >= s.limit && s.bytes >= mustHold }

// gone is how much of a stream nobody needs any more, as a client has it.
func (s *spool) gone(stream int) int64 {
	if s.keeps {
		return 0
	}
	return s.acked[stream]
}

// trim drops what a client has confirmed; of a spool that keeps it, to make room.
func (s *spool) trim() {
	for len(s.chunks) > 0 && s.chunks[0].end() <= s.acked[s.chunks[0].stream] && (!s.keeps || s.size >= s.limit) {
		s.remove()
	}
}

// append adds bytes of a stream. It reports whether it kept b itself, which it does when b
// is a newBuffer that is mostly full; else it has copied.
func (s *spool) append(stream int, b []byte) (kept bool) {
	off := s.end[stream]
	s.end[stream] += int64(len(b))
	s.bytes += len(b)
	if n := len(s.chunks); n > 0 {
		c := &s.chunks[n-1]
		if whole := len(c.data) + len(b); c.stream == stream && whole <= guest.BulkData {
			s.size -= c.charge()
			if whole > smallChunk && cap(c.data) < whole {
				small := c.data
				c.data = append(newBuffer()[:0], small...)
				recycle(small)
			}
			c.data = append(c.data, b...)
			s.size += c.charge()
			return false
		}
	}
	c := chunk{stream: stream, off: off}
	switch {
	case cap(b) == guest.BulkData && len(b) >= guest.BulkData/2:
		c.data, kept = b, true
	case len(b) > smallChunk:
		c.data = append(newBuffer()[:0], b...)
	case len(b) > tinyChunk:
		c.data = append(newSmall()[:0], b...)
	default:
		c.data = append([]byte(nil), b...)
	}
	s.chunks = append(s.chunks, c)
	s.size += c.charge()
	return kept
}

// ack notes what a client has, and drops it. It is false for bytes that were never
// written.
func (s *spool) ack(upTo [2]int64) bool {
	for i := range upTo {
		if upTo[i] > s.end[i] {
			return false
		}
		s.acked[i] = max(s.acked[i], upTo[i])
	}
	s.trim()
	return true
}

// follow notes that a client goes on from there. What the one before has confirmed it may
// not have: of a spool that keeps, that must stay until it has.
func (s *spool) follow(from [2]int64) {
	if s.keeps {
		s.acked = from
	}
	s.ack(from)
}

// shrink drops the oldest chunks until the spool is within its limit.
func (s *spool) shrink() {
	for s.size > s.limit {
		s.remove()
	}
}

func (s *spool) remove() {
	c := &s.chunks[0]
	s.dropped[c.stream] += max(0, c.end()-max(c.off, s.gone(c.stream)))
	s.size -= c.charge()
	s.bytes -= len(c.data)
	recycle(c.data)
	c.data = nil
	s.chunks = s.chunks[1:]
	s.first++
}

// start returns the offset of a stream's oldest kept byte.
func (s *spool) start(stream int) int64 {
	for i := range s.chunks {
		if s.chunks[i].stream == stream {
			return s.chunks[i].off
		}
	}
	return s.end[stream]
}

// cursor is how far one client has been sent a spool.
type cursor struct {
	next int64    // index of the chunk to look at
	sent [2]int64 // offsets of the next bytes to send
}

// seek returns a cursor for a client that has the given bytes; -1 means that it wants all
// that is kept. gap is how many bytes it will never see. Confirmed bytes count as dropped,
// even if they are still in memory because of a chunk of the other stream.
func (s *spool) seek(have [2]int64) (c cursor, gap [2]int64, ok bool) {
	c.next = s.first
	for i, h := range have {
		start := max(s.start(i), s.gone(i))
		switch {
		case h > s.end[i]:
			return c, gap, false
		case h < 0:
			c.sent[i], gap[i] = start, s.dropped[i]
		default:
			c.sent[i] = max(h, start)
			gap[i] = c.sent[i] - h
		}
	}
	return c, gap, true
}

// take returns the next unsent run of bytes and moves the cursor after it; nil data when
// there is nothing to send. For the use of data see chunk.
func (s *spool) take(c *cursor) (stream int, off int64, data []byte) {
	for {
		c.next = max(c.next, s.first) // what was confirmed is gone
		i := c.next - s.first
		if i >= int64(len(s.chunks)) {
			return 0, 0, nil
		}
		k := &s.chunks[i]
		// A follower has all before the chunk; a reader may have missed what was dropped.
		if from := max(c.sent[k.stream], k.off); from < k.end() {
			c.sent[k.stream] = k.end()
			return k.stream, from, k.data[from-k.off:]
		}
		if i == int64(len(s.chunks))-1 {
			return 0, 0, nil // it may still grow
		}
		c.next++
	}
}

// pending reports whether take would return something.
func (s *spool) pending(c cursor) bool { _, _, data := s.take(&c); return data != nil }

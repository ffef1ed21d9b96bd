package session

import "banger/guest"

// stdout and stderr index the arrays that hold something per output stream.
const (
	stdout = 0
	stderr = 1
)

// chunkOverhead is what a chunk is charged beside its bytes, so that a program
// alternating single bytes between its streams stays within the limit too.
const chunkOverhead = 64

// chunk is a run of bytes of one stream. Bytes once in data never change: a
// reader may hold a part of it without the lock.
type chunk struct {
	stream int
	off    int64
	data   []byte
}

func (c *chunk) end() int64 { return c.off + int64(len(c.data)) }

// spool keeps the output no client has confirmed, both streams in the order
// they were written. It has no lock of its own.
type spool struct {
	limit   int
	chunks  []chunk
	first   int64    // number of chunks removed so far: the index of chunks[0]
	size    int      // charge of all chunks
	end     [2]int64 // bytes written so far
	acked   [2]int64 // bytes a client has confirmed
	dropped [2]int64 // bytes removed before any client confirmed them
}

func (s *spool) full() bool { return s.size >= s.limit }

// append adds bytes of a stream, copying them.
func (s *spool) append(stream int, b []byte) {
	if n := len(s.chunks); n > 0 {
		if c := &s.chunks[n-1]; c.stream == stream && len(c.data)+len(b) <= guest.MaxData {
			c.data = append(c.data, b...)
			s.size += len(b)
			s.end[stream] += int64(len(b))
			return
		}
	}
	s.chunks = append(s.chunks, chunk{stream, s.end[stream], append([]byte(nil), b...)})
	s.size += len(b) + chunkOverhead
	s.end[stream] += int64(len(b))
}

// ack notes what a client has and lets go of it. It reports false for bytes
// that were never written.
func (s *spool) ack(upTo [2]int64) bool {
	for i := range upTo {
		if upTo[i] > s.end[i] {
			return false
		}
		s.acked[i] = max(s.acked[i], upTo[i])
	}
	for len(s.chunks) > 0 && s.chunks[0].end() <= s.acked[s.chunks[0].stream] {
		s.remove()
	}
	return true
}

// shrink drops the oldest chunks until the spool is within its limit.
func (s *spool) shrink() {
	for s.size > s.limit {
		c := &s.chunks[0]
		s.dropped[c.stream] += c.end() - max(c.off, s.acked[c.stream])
		s.remove()
	}
}

func (s *spool) remove() {
	s.size -= len(s.chunks[0].data) + chunkOverhead
	s.chunks[0].data = nil
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

// seek places a cursor for a client that has the given bytes, or -1 for one
// that wants what is kept. gap is how many bytes it will never see. Confirmed
// bytes count as gone, though a chunk of the other stream may still hold them here.
func (s *spool) seek(have [2]int64) (c cursor, gap [2]int64, ok bool) {
	c.next = s.first
	for i, h := range have {
		start := max(s.start(i), s.acked[i])
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

// take returns the next unsent run of bytes and moves the cursor behind it; nil
// data when there is nothing to send.
func (s *spool) take(c *cursor) (stream int, off int64, data []byte) {
	for {
		c.next = max(c.next, s.first) // what was confirmed is gone
		i := c.next - s.first
		if i >= int64(len(s.chunks)) {
			return 0, 0, nil
		}
		k := &s.chunks[i]
		if from := c.sent[k.stream]; from < k.end() {
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

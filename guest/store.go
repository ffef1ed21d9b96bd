package guest

// Store keeps bytes in order, in one buffer that grows up to a limit and is then used as a
// ring: adding and dropping don't move bytes. It has no lock of its own. One goroutine that
// adds and one that takes may each use a slice of it without the lock that guards it.
type Store struct {
	limit int
	buf   []byte
	head  int // index of the first byte
	n     int
}

// storePage is the buffer that a Store begins with.
const storePage = 4096

// NewStore makes an empty one that keeps at most limit bytes.
func NewStore(limit int) *Store { return &Store{limit: limit} }

// Len returns how many bytes are kept.
func (s *Store) Len() int { return s.n }

// Space returns room for up to n bytes: fewer at the end of the buffer, none when it is
// full. Call Added after writing to it; nothing else may be added in between.
func (s *Store) Space(n int) []byte {
	n = min(n, s.limit-s.n)
	if free := len(s.buf) - s.n; free < n && len(s.buf) < s.limit {
		s.grow(s.n + n)
	}
	at := s.head + s.n
	if at >= len(s.buf) {
		at -= len(s.buf)
		return s.buf[at : at+min(n, s.head-at)]
	}
	return s.buf[at:min(at+n, len(s.buf))]
}

// Added notes that n bytes of the latest Space are to be kept.
func (s *Store) Added(n int) { s.n += n }

// Add keeps a copy of all of b, for which there must be room.
func (s *Store) Add(b []byte) {
	for len(b) > 0 {
		n := copy(s.Space(len(b)), b)
		s.Added(n)
		b = b[n:]
	}
}

// At returns up to n kept bytes from offset off on, fewer at the end of the buffer. They
// don't change until they are dropped.
func (s *Store) At(off, n int) []byte {
	n = min(n, s.n-off)
	at := s.head + off
	if at >= len(s.buf) {
		at -= len(s.buf)
	}
	return s.buf[at:min(at+n, len(s.buf))]
}

// Drop drops the first n bytes.
func (s *Store) Drop(n int) {
	s.n -= n
	if s.head += n; s.head >= len(s.buf) {
		s.head -= len(s.buf)
	}
}

// grow takes a buffer that holds n bytes or the limit.
func (s *Store) grow(n int) {
	size := max(len(s.buf), storePage)
	for size < n {
		size *= 2
	}
	buf := make([]byte, min(size, s.limit))
	first := copy(buf, s.At(0, s.n))
	copy(buf[first:], s.At(first, s.n-first))
	s.buf, s.head = buf, 0
}

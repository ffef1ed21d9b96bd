package session

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"banger/guest"
)

// TestSpoolModel holds the spool to two byte slices: whatever is written, taken,
// confirmed, dropped and sought, what comes out is what went in at that offset.
func TestSpoolModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		s := spool{limit: 2000, keeps: round%2 == 1}
		var all [2][]byte
		var c cursor
		for range 300 {
			switch rnd.IntN(6) {
			case 0, 1:
				i, b := rnd.IntN(2), make([]byte, 1+rnd.IntN(300))
				for j := range b {
					b[j] = byte(rnd.Uint32())
				}
				s.append(i, b)
				all[i] = append(all[i], b...)
			case 2:
				if i, off, data := s.take(&c); data != nil && !bytes.Equal(data, all[i][off:off+int64(len(data))]) {
					t.Fatalf("stream %d at %d gave other bytes", i, off)
				}
			case 3:
				if !s.ack(c.sent) {
					t.Fatal("what was sent can't be confirmed")
				}
			case 4:
				s.shrink()
				if s.size > s.limit {
					t.Fatalf("%d bytes after shrinking to %d", s.size, s.limit)
				}
				have := [2]int64{rnd.Int64N(s.end[0] + 1), rnd.Int64N(s.end[1] + 1)}
				var gap [2]int64
				var ok bool
				c, gap, ok = s.seek(have)
				for i := range have {
					if !ok || c.sent[i] != have[i]+gap[i] || gap[i] < 0 {
						t.Fatalf("sought %v: %+v, %v", have, c, gap)
					}
				}
			case 5:
				if _, _, ok := s.seek([2]int64{s.end[0] + 1, 0}); ok {
					t.Fatal("found what was never written")
				}
			}
		}
		// From here to the end every byte is there.
		for s.pending(c) {
			i, off, data := s.take(&c)
			if !bytes.Equal(data, all[i][off:off+int64(len(data))]) {
				t.Fatalf("stream %d at %d gave other bytes", i, off)
			}
		}
		if c.sent != s.end {
			t.Fatalf("%v of %v came", c.sent, s.end)
		}
	}
}

func TestSpoolCountsWhatNobodySaw(t *testing.T) {
	s := spool{limit: 500}
	for range 10 {
		s.append(stdout, make([]byte, 100))
		s.append(stderr, make([]byte, 10))
	}
	s.ack([2]int64{200, 0})
	s.shrink()
	_, gap, _ := s.seek([2]int64{-1, -1})
	if gap != s.dropped || gap[stdout] != s.start(stdout)-200 || gap[stderr] != s.start(stderr) {
		t.Errorf("gap %v, dropped %v, kept from %d and %d", gap, s.dropped, s.start(stdout), s.start(stderr))
	}
}

// Who follows a spool that keeps what the one before had confirmed misses nothing of it,
// though the spool is full and more comes.
func TestFollowedAgain(t *testing.T) {
	s := spool{limit: 256 << 10, keeps: true}
	fill := func() {
		for s.size < s.limit {
			s.append(stdout, make([]byte, guest.BulkData))
		}
	}
	fill()
	s.ack(s.end)
	c, _, ok := s.seek([2]int64{-1, -1})
	if !ok {
		t.Fatal("the spool doesn't know where it begins")
	}
	next := c.sent[stdout]
	s.follow(c.sent)
	fill()
	if !s.full() {
		t.Error("there is room where the client has nothing yet")
	}
	for {
		_, off, data := s.take(&c)
		if data == nil {
			break
		}
		if off != next {
			t.Fatalf("bytes at %d came where %d are next", off, next)
		}
		next += int64(len(data))
	}
	if next != s.end[stdout] {
		t.Errorf("%d bytes of %d came", next, s.end[stdout])
	}
}

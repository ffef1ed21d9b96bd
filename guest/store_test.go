package guest_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"banger/guest"
)

// A store gives back what it was given, whatever sizes that comes and goes in, and
// never keeps more than its limit.
func TestStore(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int{1, 7, 4096, 10_000} {
		s := guest.NewStore(limit)
		var want []byte
		next := byte(0)
		fill := func(b []byte) {
			for i := range b {
				b[i] = next
				next++
			}
			want = append(want, b...)
		}
		for range 20_000 {
			switch n := rng.IntN(limit + limit/2 + 1); rng.IntN(4) {
			case 0:
				room := s.Space(n)
				if len(room) > n || n > 0 && len(room) == 0 && s.Len() < limit {
					t.Fatalf("limit %d: room of %d for %d, beside %d", limit, len(room), n, s.Len())
				}
				room = room[:rng.IntN(len(room)+1)]
				held := s.At(0, s.Len())
				before := bytes.Clone(held)
				fill(room)
				if !bytes.Equal(held, before) {
					t.Fatal("what was kept was overwritten")
				}
				if d := rng.IntN(s.Len() + 1); rng.IntN(2) == 0 { // somebody takes meanwhile
					s.Drop(d)
					want = want[d:]
				}
				s.Added(len(room))
			case 1:
				b := make([]byte, min(n, limit-s.Len()))
				fill(b)
				s.Add(b)
			case 2:
				n = min(n, s.Len())
				s.Drop(n)
				want = want[n:]
			case 3:
				off := rng.IntN(s.Len() + 1)
				if got := s.At(off, n); !bytes.Equal(got, want[off:off+len(got)]) || len(got) == 0 && n > 0 && off < s.Len() {
					t.Fatalf("limit %d: at %d are %d bytes that aren't what was put there", limit, off, len(got))
				}
			}
			if s.Len() != len(want) || s.Len() > limit {
				t.Fatalf("limit %d: %d bytes are kept, %d should be", limit, s.Len(), len(want))
			}
		}
	}
}

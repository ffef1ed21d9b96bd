package link_test

import (
	"context"
	"encoding/binary"
	"io"
	"sync"
	"testing"
	"time"

	"banger/guest/link"
)

// Whatever a guest says within a session, frame by frame, the host ends what is broken
// and no more: it understands the next HELLO, and a stream works.
func FuzzSession(f *testing.F) {
	// Each frame is 8 bytes here: kind, what its id is, the length, a byte of payload.
	f.Add([]byte{data, 1, 0, 0, 0, 9, 'x', 0, credit, 1, 0, 0, 0, 4, 0, 0, fin, 1, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{reset, 1, 0, 0, 0, 1, 1, 0, data, 1, 0, 0, 0x80, 0, 'x', 0, opened, 1, 0x80, 0, 0, 0, 0, 0})
	f.Add([]byte{credit, 1, 0, 0, 0, 4, 255, 0, hello, 0, 0, 0, 0, 24, 2, 0, 77, 2, 0, 0, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		a, b := socketpair(t)
		host, guest := link.New(a, link.Host), &liar{tb: t, conn: b, epoch: liarsEpoch}
		defer host.Close()
		defer b.Close()
		guest.cond = sync.NewCond(&guest.mu)
		go guest.listen()
		first := guest.hostEpoch(0)
		guest.write(encodeHello(1, 2, guest.epoch, first))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		said, err := host.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = said.Write([]byte("x"))
		most := int64(len(script)) << 13
		var heard sync.WaitGroup
		heard.Go(func() {
			if n, _ := io.Copy(io.Discard, said); n > most {
				t.Errorf("%d bytes came of at most %d", n, most)
			}
		})
		tag := tagOf(first, guest.epoch)
		for seq := uint32(0); len(script) >= 8; script = script[8:] {
			payload := make([]byte, min(binary.BigEndian.Uint16(script[4:]), 32<<10))
			for i := range payload {
				payload[i] = script[6]
			}
			id := uint32(script[1]) | uint32(script[2])<<24
			guest.write(encode(script[0], id, seq+uint32(script[7]), tag, payload))
			seq++
		}
		guest.write(encodeHello(1, 1, guest.epoch+1, guest.hostEpoch(0)))
		guest.echoed(guest.epoch + 1)
		guest.write(encodeHello(1, 1, guest.epoch+1, guest.hostEpoch(0)))
		heard.Wait()
		s, err := host.Open(ctx)
		if err != nil {
			t.Fatalf("no session afterwards: %v", err)
		}
		_ = s.Close()
	})
}

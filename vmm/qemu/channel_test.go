package qemu_test

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/guest"
	"banger/host/proc"
	"banger/vmm/shim"
)

// The shim is killed in the middle of transfers both ways, at random bytes. Each
// stream then ends, what came of it is the beginning of what was sent on it, and
// the next stream, through the next shim, has nothing of it.
func TestShimKilledInTransfer(t *testing.T) {
	d, _ := newDriver(t)
	m := newMachine(t)
	h := start(t, d, m)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	client := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return d.Dial(ctx, m) }}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	const rounds, whole = 8, 1 << 20
	for round := range rounds {
		conn, err := client.Echo(ctx)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		st, err := shim.GetStatus(ctx, m.Dir)
		if err != nil || st.VMM != h.VMM {
			t.Fatalf("round %d: status %+v, %v", round, st, err)
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		killAt := whole // never
		if round < rounds-1 {
			killAt = 8 * rnd.IntN(whole/8)
		}
		if got := echo(t, conn, uint64(round)<<32, whole, killAt, st.Shim); killAt == whole && got != whole {
			t.Errorf("the stream that nothing disturbed carried %d of %d bytes", got, whole)
		}
		if ctx.Err() != nil {
			t.Fatalf("round %d hangs", round)
		}
		stop()
		_ = conn.Close()
	}
}

// echo sends size bytes of numbers that begin with first, checks those that come
// back, and kills the shim when killAt bytes have. It returns how many came.
func echo(t *testing.T, conn net.Conn, first uint64, size, killAt int, s banger.Process) (got int) {
	t.Helper()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		b := make([]byte, 0, size)
		for n := range size / 8 {
			b = binary.BigEndian.AppendUint64(b, first+uint64(n))
		}
		_, _ = conn.Write(b) // it breaks with the shim
	}()
	var b [8]byte
	for ; got < size; got += len(b) {
		if got == killAt {
			if err := proc.Kill(s, unix.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			if got < killAt {
				t.Errorf("after %d bytes, before the kill: %v", got, err)
			}
			break
		}
		if n := binary.BigEndian.Uint64(b[:]); n != first+uint64(got/8) {
			t.Errorf("byte %d: got number %x, want %x", got, n, first+uint64(got/8))
			break
		}
	}
	<-sent
	return got
}

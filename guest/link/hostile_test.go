package link_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"banger/guest/link"
)

// The wire format, written down a second time from the package's documentation:
// version 1 as it was released. Guests speak it for as long as they run, so what
// follows stays as it is while minVersion is 1.
const (
	hello byte = 1 + iota
	opened
	data
	credit
	fin
	reset
)

var table = crc32.MakeTable(crc32.Castagnoli)

func encode(kind byte, stream, seq uint32, tag uint64, payload []byte) []byte {
	return encodeSum(kind, stream, seq, tag, payload, crc32.Checksum(payload, table))
}

// encodeSum has another checksum of the payload.
func encodeSum(kind byte, stream, seq uint32, tag uint64, payload []byte, sum uint32) []byte {
	b := []byte{0xb4, 'n', 'g', 0xa7, kind, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint64(b, tag)
	b = binary.BigEndian.AppendUint32(b, sum)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, table))
	return append(b, payload...)
}

func encodeHello(low, high byte, mine, theirs uint64) []byte {
	p := append([]byte{low, high}, make([]byte, 6)...)
	p = binary.BigEndian.AppendUint64(p, mine)
	return encode(hello, 0, 0, 0, binary.BigEndian.AppendUint64(p, theirs))
}

func tagOf(host, guest uint64) uint64 {
	b := binary.BigEndian.AppendUint64(nil, host)
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(b, guest))
	return binary.BigEndian.Uint64(sum[:])
}

// liar is a guest written by hand, which can say anything.
type liar struct {
	tb    testing.TB
	conn  net.Conn
	epoch uint64
	seq   uint32

	mu    sync.Mutex
	cond  *sync.Cond
	host  uint64 // the host's epoch
	echo  uint64 // ours, as the host knows it
	kinds []byte // of the frames that came
	last  []byte // the newest one's payload
}

const liarsEpoch = 4711

// openLiar returns a host and a guest that has said HELLO.
func openLiar(tb testing.TB) (*link.Mux, *liar) {
	tb.Helper()
	a, b := socketpair(tb)
	host := link.New(a, link.Host)
	tb.Cleanup(func() { host.Close() })
	l := &liar{tb: tb, conn: b, epoch: liarsEpoch}
	l.cond = sync.NewCond(&l.mu)
	go l.listen()
	l.write(encodeHello(1, 1, l.epoch, l.hostEpoch(0)))
	<-host.Up()
	return host, l
}

func (l *liar) write(b []byte) {
	l.tb.Helper()
	if _, err := l.conn.Write(b); err != nil {
		l.tb.Fatal(err)
	}
}

// send sends a frame of the session.
func (l *liar) send(kind byte, stream uint32, payload []byte) {
	l.tb.Helper()
	l.write(encode(kind, stream, l.seq, tagOf(l.hostEpoch(0), l.epoch), payload))
	l.seq++
}

// hostEpoch waits until the host has an epoch other than that one.
func (l *liar) hostEpoch(not uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.host == not {
		l.cond.Wait()
	}
	return l.host
}

// echoed waits until the host knows that epoch as the guest's.
func (l *liar) echoed(epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.echo != epoch {
		l.cond.Wait()
	}
}

// heard waits for a frame of a kind.
func (l *liar) heard(kind byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !bytes.Contains(l.kinds, []byte{kind}) {
		l.cond.Wait()
	}
	return l.last
}

func (l *liar) listen() {
	var buf []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := l.conn.Read(chunk)
		if err != nil {
			return
		}
		buf = append(buf, chunk[:n]...)
		for {
			buf = bytes.TrimLeft(buf, "\x00")
			if len(buf) < 32 || len(buf) < 32+int(binary.BigEndian.Uint16(buf[6:])) {
				break
			}
			size := 32 + int(binary.BigEndian.Uint16(buf[6:]))
			l.mu.Lock()
			if buf[4] == hello {
				l.host, l.echo = binary.BigEndian.Uint64(buf[40:]), binary.BigEndian.Uint64(buf[48:])
			}
			l.kinds = append(l.kinds, buf[4])
			l.last = bytes.Clone(buf[32:size])
			l.cond.Broadcast()
			l.mu.Unlock()
			buf = buf[size:]
		}
	}
}

// readError reads a stream to its end and returns why it ended.
func readError(s *link.Stream) error {
	s.SetReadDeadline(time.Now().Add(30 * time.Second))
	_, err := io.Copy(io.Discard, s)
	return err
}

// spoken opens a stream and says a byte on it, which the liar waits for.
func spoken(t *testing.T, host *link.Mux, l *liar) *link.Stream {
	t.Helper()
	s, err := host.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.kinds = nil
	l.mu.Unlock()
	if _, err := s.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	l.heard(data)
	return s
}

// A guest wakes once for a stream and its first bytes, and never for a stream on
// which nothing was said; silent streams count all the same.
func TestOpeningSaysNothing(t *testing.T) {
	t.Parallel()
	host, l := openLiar(t)
	silent := make([]*link.Stream, link.OldStreams-1)
	for i := range silent {
		s, err := host.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		silent[i] = s
	}
	spoken(t, host, l)
	if _, err := host.Open(t.Context()); !errors.Is(err, link.ErrTooMany) {
		t.Errorf("one stream too many: %v", err)
	}
	l.send(data, 1, []byte("hello")) // the first that spoke, not the first that was opened
	for i, s := range silent {
		if i%2 == 0 {
			s.Close()
		} else {
			s.Reset()
		}
	}
	spoken(t, host, l).Close() // the place of one of them
	l.heard(fin)
	l.mu.Lock()
	defer l.mu.Unlock()
	if want := []byte{opened, data, fin, reset}; !bytes.Equal(l.kinds, want) {
		t.Errorf("the guest heard frames of kinds %v, want %v", l.kinds, want)
	}
}

// The liar can tell the truth: what the cases below show isn't its own fault.
func TestHonestLiar(t *testing.T) {
	t.Parallel()
	host, l := openLiar(t)
	s := spoken(t, host, l)
	l.send(data, 1, []byte("hello"))
	l.send(fin, 1, nil)
	if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	s.Close()
	l.heard(fin)
}

// A lie about a stream costs that stream; a lie about the session costs the
// session. Both say so, and the next HELLO is as good as the first.
func TestLies(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		lie     func(*liar)
		want    string
		session bool
	}{
		{"window overrun", func(l *liar) {
			for range link.Window/(32<<10) + 1 {
				l.send(data, 1, make([]byte, 32<<10))
			}
			l.heard(reset) // before anything was read
		}, "more bytes than its window", false},
		{"endless credit", func(l *liar) { l.send(credit, 1, []byte{0xff, 0xff, 0xff, 0xff}) }, "more credit", false},
		{"odd credit", func(l *liar) { l.send(credit, 1, []byte{1}) }, "more credit", false},
		{"reset", func(l *liar) { l.send(reset, 1, []byte{0}) }, "closed by the other side", false},
		{"empty reset", func(l *liar) { l.send(reset, 1, nil) }, "closed by the other side", false},
		{"refusal", func(l *liar) { l.send(reset, 1, []byte{1}) }, "too many streams", false},
		{"unknown stream", func(l *liar) { l.send(data, 99, []byte("x")) }, "stream 99", true},
		{"stream zero", func(l *liar) { l.send(fin, 0, nil) }, "stream 0", true},
		{"guest opens", func(l *liar) { l.send(opened, 7, nil) }, "kind 2", true},
		{"unknown kind", func(l *liar) { l.send(200, 7, nil) }, "kind 200", true},
		{"kind zero", func(l *liar) { l.send(0, 7, nil) }, "kind 0", true},
		{"lost frame", func(l *liar) { l.seq++; l.send(data, 1, []byte("x")) }, "in place of", true},
		{"replayed frame", func(l *liar) { l.send(data, 1, []byte("x")); l.seq--; l.send(data, 1, []byte("x")) }, "in place of", true},
		{"another guest", func(l *liar) { l.write(encodeHello(1, 1, 42, l.hostEpoch(0))); l.epoch, l.seq = 42, 0 }, "was replaced", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			host, l := openLiar(t)
			s := spoken(t, host, l)
			epoch := l.hostEpoch(0)
			if test.session {
				test.lie(l)
				l.hostEpoch(epoch)
				l.seq = 0
			} else {
				test.lie(l)
			}
			if err := readError(s); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if _, err := s.Write([]byte("x")); err == nil {
				t.Error("write to a broken stream succeeded")
			}
			// A session the host has ended is its own to begin again.
			l.write(encodeHello(1, 1, l.epoch, l.hostEpoch(0)))
			if _, err := host.Open(t.Context()); err != nil {
				t.Errorf("open after the lie: %v", err)
			}
		})
	}
}

// Bytes of an earlier session, whole frames with good checksums, go nowhere.
func TestReplayedSession(t *testing.T) {
	t.Parallel()
	host, l := openLiar(t)
	spoken(t, host, l)
	old := encode(data, 1, 0, tagOf(l.hostEpoch(0), liarsEpoch), []byte("stale"))
	l.epoch = 42
	l.write(encodeHello(1, 1, l.epoch, l.hostEpoch(0)))
	l.echoed(42)
	s := spoken(t, host, l)
	for range 100 {
		l.write(old)
	}
	l.send(data, 1, []byte("fresh"))
	l.send(fin, 1, nil)
	if got, err := io.ReadAll(s); err != nil || string(got) != "fresh" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestVersionsThatDontMeet(t *testing.T) {
	t.Parallel()
	host, l := openLiar(t)
	l.write(encodeHello(7, 9, 42, 0)) // may be a dead guest's
	l.echoed(42)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := host.Open(ctx); err == nil || strings.Contains(err.Error(), "versions") {
		t.Errorf("a HELLO that may be stale was believed: %v", err)
	}
	l.write(encodeHello(7, 9, 42, l.hostEpoch(0)))
	_, err := host.Open(t.Context())
	if err == nil || !strings.Contains(err.Error(), "versions 7 to 9") {
		t.Errorf("error %v", err)
	}
}

// A guest that sends anything without end, and never reads, costs a bounded
// amount of memory.
func TestEndlessLiesCostBoundedMemory(t *testing.T) {
	a, b := socketpair(t)
	host := link.New(a, link.Host)
	defer host.Close()
	var flood []byte
	for i := range uint64(200) {
		flood = append(flood, encodeHello(1, 1, i+1, i)...)
		flood = append(flood, encode(opened, uint32(i), 0, i, make([]byte, 1000))...)
		flood = append(flood, encode(data, 1, 0, i, make([]byte, 32<<10))[:20_000]...)
		flood = append(flood, bytes.Repeat([]byte{0xb4, 'n', 'g', 0xa7}, 500)...)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 20 {
		if _, err := b.Write(flood); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("%d bytes of lies left %d bytes on the heap", 20*len(flood), grown)
	}
}

// A host that opens streams without end is refused by the guest.
func TestEndlessOpens(t *testing.T) {
	t.Parallel()
	a, b := socketpair(t)
	guest := link.New(b, link.Guest)
	defer guest.Close()
	l := &liar{tb: t, conn: a, epoch: liarsEpoch}
	l.cond = sync.NewCond(&l.mu)
	go l.listen()
	epoch := l.hostEpoch(0)
	l.write(encodeHello(1, 1, l.epoch, epoch))
	<-guest.Up()
	for id := range uint32(link.MaxStreams + 1) {
		l.write(encode(opened, id+1, id, tagOf(l.epoch, epoch), nil))
	}
	if reason := l.heard(reset); len(reason) != 1 || reason[0] != 1 {
		t.Errorf("reset says %v", reason)
	}
	l.write(encode(opened, 1, link.MaxStreams+1, tagOf(l.epoch, epoch), nil))
	if again := l.hostEpoch(epoch); again == 0 {
		t.Error("an id used twice was accepted")
	}
}

// Whatever comes, a HELLO after it is understood.
func FuzzReader(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0xb4, 'n', 'g', 0xa7})
	f.Add(encodeHello(1, 1, 42, 0))
	f.Add(encodeHello(1, 1, 42, 0)[:20])
	f.Add(encode(data, 1, 0, 0, make([]byte, 32<<10))[:100])
	f.Add(encode(opened, 1, 0, tagOf(1, 2), nil))
	f.Add(append(encode(reset, 1, 0, 7, []byte{1}), encodeHello(9, 9, 1, 1)...))
	f.Fuzz(func(t *testing.T, junk []byte) {
		a, b := socketpair(t)
		host, guest := link.New(a, link.Host), &liar{tb: t, conn: b, epoch: liarsEpoch}
		defer host.Close()
		defer b.Close()
		guest.cond = sync.NewCond(&guest.mu)
		go guest.listen()
		guest.write(junk)
		guest.write(make([]byte, 32+32<<10))
		guest.write(encodeHello(1, 1, liarsEpoch, guest.hostEpoch(0)))
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s, err := host.Open(ctx)
		if err != nil {
			t.Fatalf("no session after %q: %v", junk, err)
		}
		s.Close()
	})
}

// Each version has its checksum of payloads, and a byte that was damaged on its way ends
// the session in place of reaching a stream.
func TestChecksums(t *testing.T) {
	t.Parallel()
	sums := map[byte]func([]byte) uint32{
		1: func(p []byte) uint32 { return crc32.Checksum(p, table) },
		2: func(p []byte) uint32 { return crc32.Checksum(p, table) },
		3: func(p []byte) uint32 { return uint32(xxhash.Sum64(p)) },
	}
	for version, sum := range sums {
		t.Run(strconv.Itoa(int(version)), func(t *testing.T) {
			t.Parallel()
			host, f := slow(t, version)
			s, err := host.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			said := bytes.Repeat([]byte("said"), 1000)
			if _, err := s.Write(said); err != nil {
				t.Fatal(err)
			}
			for kind := byte(0); kind != data; {
				var payload []byte
				if kind, _, payload = f.next(); kind == data && f.sum != sum(payload) {
					t.Errorf("a frame of %d bytes has the checksum %x, want %x", len(payload), f.sum, sum(payload))
				}
			}
			answer := encodeSum(data, 1, f.seq, f.tag, []byte("answer"), sum([]byte("answer")))
			if _, err := f.conn.Write(answer); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 6)
			if _, err := io.ReadFull(s, got); err != nil || string(got) != "answer" {
				t.Fatalf("%q, %v", got, err)
			}
			damaged := encodeSum(data, 1, f.seq+1, f.tag, []byte("answer"), sum([]byte("answer")))
			damaged[len(damaged)-1] ^= 1
			go func() {
				_, _ = f.conn.Write(append(damaged, encodeSum(data, 1, f.seq+2, f.tag, []byte("more"), sum([]byte("more")))...))
			}()
			if got, err := io.ReadAll(s); len(got) > 0 || !errors.Is(err, link.ErrReset) {
				t.Errorf("%q came through, %v", got, err)
			}
		})
	}
}

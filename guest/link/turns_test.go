package link_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"banger/guest/link"
)

// frames reads a pipe frame by frame, as slowly as its caller.
type frames struct {
	t    *testing.T
	conn net.Conn
	tag  uint64
	seq  uint32
	sum  uint32 // of the payload that was read last, by its header
}

func (f *frames) next() (kind byte, stream uint32, payload []byte) {
	f.t.Helper()
	head := make([]byte, 32)
	_ = f.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(f.conn, head); err != nil {
		f.t.Fatal(err)
	}
	payload = make([]byte, binary.BigEndian.Uint16(head[6:]))
	if _, err := io.ReadFull(f.conn, payload); err != nil {
		f.t.Fatal(err)
	}
	f.sum = binary.BigEndian.Uint32(head[24:])
	return head[4], binary.BigEndian.Uint32(head[8:]), payload
}

func (f *frames) send(kind byte, stream uint32, payload []byte) {
	f.t.Helper()
	_ = f.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if _, err := f.conn.Write(encode(kind, stream, f.seq, f.tag, payload)); err != nil {
		f.t.Fatal(err)
	}
	f.seq++
}

// slow returns a host and the guest's end of its pipe, on which nothing moves that the
// guest doesn't read.
func slow(t *testing.T, version byte) (*link.Mux, *frames) {
	t.Helper()
	a, b := net.Pipe()
	host := link.New(a, link.Host)
	t.Cleanup(func() { _ = host.Close() })
	f := &frames{t: t, conn: b}
	_ = b.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(b, make([]byte, 32+32<<10)); err != nil { // the zeros
		t.Fatal(err)
	}
	_, _, said := f.next()
	epoch := binary.BigEndian.Uint64(said[8:])
	f.tag = tagOf(epoch, liarsEpoch)
	if _, err := b.Write(encodeHello(1, version, liarsEpoch, epoch)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 32+32<<10)); err != nil {
		t.Fatal(err)
	}
	f.next()
	<-host.Up()
	return host, f
}

// fed opens a stream that always has more to send, of which the guest knows.
func fed(t *testing.T, host *link.Mux, f *frames) {
	t.Helper()
	s, err := host.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, err := s.Write(make([]byte, 128<<10)); err != nil {
				return
			}
		}
	}()
	for { // until it waits for credit, and then gets all it may have
		kind, id, payload := f.next()
		if kind == data && len(payload) < 32<<10-32 || kind == data && id != 1 {
			f.send(credit, 1, binary.BigEndian.AppendUint32(nil, link.Window))
			return
		}
	}
}

// Who has little to say, and who keeps the VM, wait for no more than what is framed
// already, however much bulk is due.
func TestBulkDelaysNoKeystroke(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*link.Mux, context.Context) (*link.Stream, error){
		"keystroke": (*link.Mux).Open, "control": (*link.Mux).OpenControl,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, f := slow(t, 2)
			fed(t, host, f)
			for range 2 { // the writer waits for us now, in the middle of bulk
				if kind, id, _ := f.next(); kind != data || id != 1 {
					t.Fatalf("a frame of kind %d of stream %d", kind, id)
				}
			}
			s, err := open(host, t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write([]byte("k")); err != nil {
				t.Fatal(err)
			}
			before := 0
			for {
				kind, id, payload := f.next()
				if id == 2 && kind == data {
					break
				}
				before += len(payload)
			}
			if before > 2*link.BatchSize {
				t.Errorf("%d bytes of bulk came before it", before)
			}
		})
	}
}

// A stream that has little to say again and again doesn't keep bulk from going on.
func TestLittleDoesntStarveBulk(t *testing.T) {
	t.Parallel()
	host, guest := openLink(t)
	bulk, bulkEnd := openStream(t, host, guest)
	var chatter sync.WaitGroup
	stop := make(chan struct{})
	for range 20 {
		s, c := openStream(t, host, guest)
		go func() { _, _ = io.Copy(io.Discard, c) }()
		chatter.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Write(make([]byte, 100)); err != nil {
					return
				}
			}
		})
	}
	go func() { _, _ = bulk.Write(make([]byte, 4<<20)); _ = bulk.CloseWrite() }()
	_ = bulkEnd.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := io.Copy(io.Discard, bulkEnd); err != nil || n != 4<<20 {
		t.Errorf("%d bytes came through, %v", n, err)
	}
	close(stop)
	chatter.Wait()
}

// Users' streams can't take the places of those who keep the VM, with an agent of
// today and with one of before.
func TestControlHasItsPlaces(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		version        byte
		users, control int
	}{"today": {2, link.MaxStreams, link.ControlStreams}, "before": {1, 120, 8}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, _ := slow(t, c.version)
			for i, open := range []func(context.Context) (*link.Stream, error){host.Open, host.OpenControl} {
				for range []int{c.users, c.control}[i] {
					if _, err := open(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := open(t.Context()); !errors.Is(err, link.ErrTooMany) {
					t.Errorf("one too many: %v", err)
				}
			}
		})
	}
}

// A thousand streams carry what they should, at the same time.
func TestThousandStreams(t *testing.T) {
	t.Parallel()
	host, guest := openLink(t)
	go func() {
		for {
			c, err := guest.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	want := bytes.Repeat([]byte("0123456789abcdef"), 4096) // twice the first window
	var all sync.WaitGroup
	for range link.MaxStreams {
		s, err := host.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetDeadline(time.Now().Add(time.Minute))
		all.Go(func() {
			go func() { _, _ = s.Write(want); _ = s.CloseWrite() }()
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
			}
			_ = s.Close()
		})
	}
	all.Wait()
}

// The guest opens streams where its host takes them, and not elsewhere.
func TestGuestOpens(t *testing.T) {
	t.Parallel()
	host, guest := openLink(t)
	openStream(t, host, guest)
	if _, err := guest.Open(t.Context()); !errors.Is(err, link.ErrNotTaken) {
		t.Errorf("a host that doesn't take streams: %v", err)
	}
	go func() {
		for {
			c, err := host.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	var s *link.Stream
	for s == nil { // the guest is told in the host's time
		var err error
		if s, err = guest.Open(t.Context()); err != nil && !errors.Is(err, link.ErrNotTaken) {
			t.Fatal(err)
		}
		if _, _, err := stream(host, guest); err != nil { // a round trip
			t.Fatal(err)
		}
	}
	want := bytes.Repeat([]byte("x"), 3*link.Window)
	go func() { _, _ = s.Write(want); _ = s.CloseWrite() }()
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
	}
	_ = s.Close()
	for range 128 {
		s, err := guest.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := guest.Open(t.Context()); !errors.Is(err, link.ErrTooMany) {
		t.Errorf("one too many: %v", err)
	}
}

// A guest that opens more than it may is refused, and one that opens where it
// wasn't asked to is cut off.
func TestGuestOpensTooMany(t *testing.T) {
	t.Parallel()
	host, f := slow(t, 2)
	go func() { _, _ = host.Accept() }()
	if kind, _, said := f.next(); kind != hello || said[2] != 1 {
		t.Fatalf("the host says %v by a frame of kind %d", said, kind)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for id := range uint32(129) {
			f.send(opened, 1<<31|(id+1), nil)
		}
	}()
	kind, id, reason := f.next()
	<-done
	if kind != reset || id != 1<<31|129 || !bytes.Equal(reason, []byte{1}) {
		t.Errorf("the host sent a frame of kind %d for %x: %v", kind, id, reason)
	}

	before, old := slow(t, 2)
	old.send(opened, 1<<31|1, nil)
	if kind, _, _ := old.next(); kind != 0 && kind != hello {
		t.Errorf("not cut off, but sent a frame of kind %d", kind)
	}
	_ = before
}

// An agent of before is spoken to as it was: windows are what they were.
func TestOldWindows(t *testing.T) {
	t.Parallel()
	host, f := slow(t, 1)
	s, err := host.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = s.Write(make([]byte, 2*link.Window)) }()
	got := 0
	for got < link.Window {
		if kind, _, payload := f.next(); kind == data {
			got += len(payload)
		}
	}
	if got != link.Window {
		t.Errorf("%d bytes came without credit", got)
	}
	for range link.Window / (32 << 10) { // and it may send as much at once
		f.send(data, 1, make([]byte, 32<<10))
	}
	if n, err := io.ReadFull(s, make([]byte, link.Window)); err != nil {
		t.Errorf("%d bytes arrived, %v", n, err)
	}
}

// A stream that is read fast gets a larger window, of three frames: all that is on its way
// delays a keystroke.
func TestWindowsStaySmall(t *testing.T) {
	t.Parallel()
	host, f := slow(t, 2)
	s, err := host.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for kind := byte(0); kind != data; kind, _, _ = f.next() { // both sides know it now
	}
	go func() { _, _ = io.Copy(io.Discard, s) }()
	room, most := 32<<10, 0
	for sent := 0; sent < 1<<20; {
		for n := min(room, 8<<10); n > 0; n = min(room, 8<<10) {
			f.send(data, 1, make([]byte, n))
			room -= n
			sent += n
		}
		for kind, _, payload := f.next(); ; kind, _, payload = f.next() {
			if kind == credit {
				room += int(binary.BigEndian.Uint32(payload))
				most = max(most, room)
				break
			}
		}
	}
	if most <= 32<<10 || most > 96<<10 {
		t.Errorf("%d bytes may be on their way", most)
	}
}

// An end is an end, and whatever else happens to a stream isn't.
func TestOnlyAnEndIsOne(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(s *link.Stream, guest *link.Mux)
		want error
	}{
		"end":   {func(s *link.Stream, _ *link.Mux) { _ = s.CloseWrite() }, nil},
		"close": {func(s *link.Stream, _ *link.Mux) { _ = s.Close() }, nil},
		"reset": {func(s *link.Stream, _ *link.Mux) { s.Reset() }, link.ErrClosed},
		"death": {func(_ *link.Stream, guest *link.Mux) { _ = guest.Close() }, link.ErrReset},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, guest := openLink(t)
			s, c2 := openStream(t, host, guest)
			c.do(c2, guest)
			_, err := io.ReadAll(s)
			if !errors.Is(err, c.want) || errors.Is(err, io.EOF) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// BenchmarkKeystroke is how long one byte takes there and back, on an idle link and
// beside bulk: the medians of 200, one each millisecond. The host's buffer is the shim's.
func BenchmarkKeystroke(b *testing.B) {
	for _, way := range []struct {
		name     string
		up, down bool
	}{{"to-guest", true, false}, {"from-guest", false, true}, {"both", true, true}} {
		b.Run(way.name, func(b *testing.B) {
			x, y := socketpair(b)
			if err := x.(*net.UnixConn).SetWriteBuffer(32 << 10); err != nil {
				b.Fatal(err)
			}
			host, guest := link.New(x, link.Host), link.New(y, link.Guest)
			defer func() { _, _ = host.Close(), guest.Close() }()
			keys, echo := openStream(b, host, guest)
			go func() { _, _ = io.Copy(echo, echo) }()
			var idle, beside []time.Duration
			for b.Loop() {
				idle = append(idle, strokes(b, keys)...)
				s, c := openStream(b, host, guest)
				var bulk sync.WaitGroup
				if way.up {
					pump(&bulk, s, c)
				}
				if way.down {
					pump(&bulk, c, s)
				}
				beside = append(beside, strokes(b, keys)...)
				s.Reset()
				c.Reset()
				bulk.Wait()
			}
			slices.Sort(idle)
			slices.Sort(beside)
			i, j := idle[len(idle)/2], beside[len(beside)/2]
			b.ReportMetric(float64(i.Microseconds()), "idle-us")
			b.ReportMetric(float64(j.Microseconds()), "beside-bulk-us")
			b.ReportMetric(float64(j)/float64(i), "ratio(bound-2)")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// pump keeps one direction of a stream full until it is reset.
func pump(g *sync.WaitGroup, from, to *link.Stream) {
	g.Go(func() {
		for p := make([]byte, 64<<10); ; {
			if _, err := from.Write(p); err != nil {
				return
			}
		}
	})
	g.Go(func() { _, _ = io.Copy(io.Discard, to) })
}

func strokes(b *testing.B, keys *link.Stream) []time.Duration {
	var took []time.Duration
	for range 200 {
		time.Sleep(time.Millisecond)
		began := time.Now()
		if _, err := keys.Write([]byte("k")); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(keys, make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	return took
}

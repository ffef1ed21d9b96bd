package link_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"banger/guest/link"
)

// socketpair returns both ends of a unix stream socket.
func socketpair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if ends[i], err = net.FileConn(f); err != nil {
			tb.Fatal(err)
		}
		f.Close()
		tb.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

// openLink returns both sides of a link.
func openLink(tb testing.TB) (host, guest *link.Mux) {
	tb.Helper()
	a, b := socketpair(tb)
	host, guest = link.New(a, link.Host), link.New(b, link.Guest)
	tb.Cleanup(func() { host.Close(); guest.Close() })
	return host, guest
}

// openStream returns both ends of a new stream.
func openStream(tb testing.TB, host, guest *link.Mux) (*link.Stream, *link.Stream) {
	tb.Helper()
	s, c, err := stream(host, guest)
	if err != nil {
		tb.Fatal(err)
	}
	return s, c
}

// stream opens a stream, of which the guest hears by its first byte.
func stream(host, guest *link.Mux) (*link.Stream, *link.Stream, error) {
	s, err := host.Open(context.Background())
	if err != nil {
		return nil, nil, err
	}
	if _, err := s.Write([]byte{0}); err != nil {
		return nil, nil, err
	}
	c, err := guest.Accept()
	if err != nil {
		return nil, nil, err
	}
	_, err = c.Read(make([]byte, 1))
	return s, c.(*link.Stream), err
}

// A stream is a net.Conn in every respect the standard test knows.
func TestStreamIsAConn(t *testing.T) {
	t.Parallel()
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := net.Pipe()
		host, guest := link.New(a, link.Host), link.New(b, link.Guest)
		s, c, err := stream(host, guest)
		return s, c, func() { host.Close(); guest.Close() }, err
	})
}

func TestHalfClose(t *testing.T) {
	t.Parallel()
	host, guest := openLink(t)
	s, c := openStream(t, host, guest)
	go func() {
		got, _ := io.ReadAll(c)
		c.Write(append([]byte("got "), got...))
		c.Close()
	}()
	if _, err := io.WriteString(s, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != "got hello" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := s.Write([]byte("x")); err == nil {
		t.Error("write after CloseWrite succeeded")
	}
}

// Close ends the peer's writes and still delivers what was written before it.
func TestCloseDeliversAndStopsThePeer(t *testing.T) {
	t.Parallel()
	host, guest := openLink(t)
	s, c := openStream(t, host, guest)
	want := bytes.Repeat([]byte("0123456789abcdef"), 4000)
	if _, err := s.Write(want); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d of %d bytes, %v", len(got), len(want), err)
	}
	for {
		if _, err := c.Write(want); err != nil {
			if !errors.Is(err, link.ErrClosed) {
				t.Errorf("write to a closed stream: %v", err)
			}
			break
		}
	}
}

// A reader that never reads holds up its own stream, no other.
func TestNoStreamBlocksAnother(t *testing.T) {
	t.Parallel()
	host, guest := openLink(t)
	stuck, _ := openStream(t, host, guest)
	stuck.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := stuck.Write(make([]byte, 4*link.Window))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n >= 2*link.Window {
		t.Fatalf("a stream nobody reads took %d bytes: %v", n, err)
	}
	s, c := openStream(t, host, guest)
	go func() { io.Copy(c, c); c.Close() }()
	want := make([]byte, 8*link.Window)
	go func() { s.Write(want); s.CloseWrite() }()
	if got, err := io.ReadAll(s); err != nil || len(got) != len(want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	host, guest := openLink(t)
	var last *link.Stream
	for range link.MaxStreams {
		last, _ = openStream(t, host, guest)
	}
	if _, err := host.Open(context.Background()); !errors.Is(err, link.ErrTooMany) {
		t.Errorf("one stream too many: %v", err)
	}
	last.Reset()
	for { // the place is free as soon as the RESET was framed
		s, err := host.Open(context.Background())
		if err == nil {
			s.Close()
			return
		}
	}
}

func TestOpenWaitsForThePeer(t *testing.T) {
	t.Parallel()
	a, b := socketpair(t)
	host := link.New(a, link.Host)
	defer host.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := host.Open(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("open with nobody there: %v", err)
	}
	opened := make(chan error)
	go func() {
		_, err := host.Open(context.Background())
		opened <- err
	}()
	guest := link.New(b, link.Guest)
	defer guest.Close()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	guest.Close()
	<-host.Done()
	if _, err := host.Open(context.Background()); err == nil {
		t.Error("open on an ended link succeeded")
	}
}

// pattern is the byte at an offset of a numbered object.
func pattern(object uint32, b []byte, off int64) {
	for i := range b {
		o := uint64(off) + uint64(i)
		x := (o ^ uint64(object)<<32) * 0x9e3779b97f4a7c15
		b[i] = byte(x >> 56)
	}
}

const objectSize = 1 << 20

// serve answers one stream of the objects' little protocol: kind, object and
// offset, then a download from there, or an upload after the offset held.
func serve(c net.Conn, held *sync.Map) {
	defer c.Close()
	var head [13]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	object, off := binary.BigEndian.Uint32(head[1:]), int64(binary.BigEndian.Uint64(head[5:]))
	if head[0] == 'd' {
		for buf := make([]byte, 10_000); off < objectSize; {
			b := buf[:min(int64(len(buf)), objectSize-off)]
			pattern(object, b, off)
			if _, err := c.Write(b); err != nil {
				return
			}
			off += int64(len(b))
		}
		return
	}
	// One upload of an object at a time, as a real resumable sink has it.
	v, _ := held.LoadOrStore(object, &upload{})
	u := v.(*upload)
	u.mu.Lock()
	defer u.mu.Unlock()
	c.Write(binary.BigEndian.AppendUint64(nil, uint64(len(u.got))))
	buf := make([]byte, 10_000)
	for len(u.got) < objectSize {
		n, err := c.Read(buf)
		u.got = append(u.got, buf[:n]...)
		if err != nil {
			return
		}
	}
	sum := sha256.Sum256(u.got)
	c.Write(sum[:])
}

type upload struct {
	mu  sync.Mutex
	got []byte
}

// download goes on with an object; it returns the offset it came to.
func download(c net.Conn, object uint32, off int64) (int64, error) {
	head := binary.BigEndian.AppendUint32([]byte{'d'}, object)
	if _, err := c.Write(binary.BigEndian.AppendUint64(head, uint64(off))); err != nil {
		return off, nil
	}
	got, want := make([]byte, 9_000), make([]byte, 9_000)
	for {
		n, err := c.Read(got)
		pattern(object, want[:n], off)
		if !bytes.Equal(got[:n], want[:n]) {
			return off, errors.New("a byte that doesn't belong there")
		}
		off += int64(n)
		if err == io.EOF && off != objectSize {
			return off, errors.New("end of file before the end")
		}
		if err != nil {
			return off, nil
		}
	}
}

// send goes on with an upload; it reports whether the guest has all of it.
func send(c net.Conn, object uint32) (bool, error) {
	head := binary.BigEndian.AppendUint32([]byte{'u'}, object)
	c.Write(binary.BigEndian.AppendUint64(head, 0))
	var at [8]byte
	if _, err := io.ReadFull(c, at[:]); err != nil {
		return false, nil
	}
	off := int64(binary.BigEndian.Uint64(at[:]))
	if off > objectSize {
		return false, errors.New("the guest holds more than was sent")
	}
	all := make([]byte, objectSize)
	pattern(object, all, 0)
	go c.Write(all[off:])
	var sum [32]byte
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		return false, nil
	}
	if sum != sha256.Sum256(all) {
		return false, errors.New("the guest holds other bytes")
	}
	return true, nil
}

// Hosts die at random bytes, hundreds of them, on a port that loses, tears and
// glues. Four streams go on by offset: each object completes, no byte is stale,
// nothing hangs.
func TestHostsDieAtRandomBytes(t *testing.T) {
	t.Parallel()
	deaths := 400
	if testing.Short() {
		deaths = 100
	}
	p := newPort(7)
	guest := link.New(link.Port(p), link.Guest)
	defer guest.Close()
	var held sync.Map
	go func() {
		for {
			c, err := guest.Accept()
			if err != nil {
				return
			}
			go serve(c, &held)
		}
	}()

	var current atomic.Pointer[link.Mux]
	over := make(chan struct{})
	current.Store(link.New(p.connect(1000), link.Host))
	go func() {
		defer close(over)
		rnd := rand.New(rand.NewPCG(1, 2))
		for range deaths {
			<-current.Load().Done()
			budget := 1 + rnd.IntN(400_000)
			if rnd.IntN(4) == 0 {
				budget = 1 + rnd.IntN(200) // dies in the handshake
			}
			current.Store(link.New(p.connect(budget), link.Host))
		}
		<-current.Load().Done()
		current.Store(link.New(p.connect(0), link.Host))
	}()

	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var completed atomic.Int64
	for w := range uint32(4) {
		wg.Go(func() {
			for round := uint32(0); ; round++ {
				object := w<<24 | round
				var off int64
				for done := false; !done; {
					m := current.Load()
					c, err := m.Open(ctx)
					if ctx.Err() != nil {
						t.Errorf("hung: object %x at %d", object, off)
						return
					}
					if err != nil {
						continue
					}
					// A hang is this test's failure, not its end.
					c.SetDeadline(time.Now().Add(time.Minute))
					if w%2 == 0 {
						off, err = download(c, object, off)
						done = off == objectSize
					} else {
						done, err = send(c, object)
					}
					c.Reset()
					if err != nil {
						t.Errorf("object %x at %d: %v", object, off, err)
						return
					}
				}
				held.Delete(object)
				completed.Add(1)
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	wg.Wait()
	current.Load().Close()
	t.Logf("%d hosts died, %d objects completed", deaths, completed.Load())
}

func BenchmarkRoundTrip(b *testing.B) {
	host, guest := openLink(b)
	s, c := openStream(b, host, guest)
	go io.Copy(c, c)
	buf := make([]byte, 1)
	for b.Loop() {
		s.Write(buf)
		if _, err := io.ReadFull(s, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// The bare pipe's round trip, to be taken off the one above.
func BenchmarkBarePipe(b *testing.B) {
	x, y := socketpair(b)
	go io.Copy(y, y)
	buf := make([]byte, 1)
	for b.Loop() {
		x.Write(buf)
		if _, err := io.ReadFull(x, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenAndClose(b *testing.B) {
	host, guest := openLink(b)
	go func() {
		for {
			c, err := guest.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	for b.Loop() {
		s, err := host.Open(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		s.Write([]byte("x"))
		s.CloseWrite()
		if got, err := io.ReadAll(s); err != nil || string(got) != "x" {
			b.Fatal(got, err)
		}
		s.Close()
	}
}

func BenchmarkThroughput(b *testing.B) {
	host, guest := openLink(b)
	s, c := openStream(b, host, guest)
	go io.Copy(io.Discard, c)
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := s.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}

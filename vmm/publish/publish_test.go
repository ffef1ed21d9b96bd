package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/host/published"
	"banger/host/unixsock"
	"banger/vmm/publish"
)

// server publishes ports of an agent that runs here.
func server(t *testing.T, born time.Time) *publish.Server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go (&agent.Server{Sessions: &session.Table{}}).Serve(l)
	s := publish.New(func(ctx context.Context) (net.Conn, error) { return unixsock.Dial(ctx, path) }, born)
	t.Cleanup(s.Close)
	return s
}

// leads returns a port of this host that may lead to guest.
func leads(t *testing.T, guest int, protocol string) banger.Published {
	t.Helper()
	p, err := published.Host{}.Free(banger.Published{Guest: guest, Protocol: protocol}, func(banger.Published) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func address(p banger.Published) string { return fmt.Sprintf("127.0.0.1:%d", p.Port) }

// echoes returns the port of a server that says back what it hears, each connection up to its end.
func echoes(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func echo(t *testing.T, p banger.Published) error {
	t.Helper()
	c, err := net.Dial("tcp", address(p))
	if err != nil {
		return err
	}
	defer c.Close()
	want := bytes.Repeat([]byte("0123456789"), 30_000)
	go func() {
		_, _ = c.Write(want)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%d of %d bytes came back", len(got), len(want))
	}
	return err
}

func TestPorts(t *testing.T) {
	s := server(t, time.Time{})
	guest := echoes(t)
	a, b := leads(t, guest, "tcp"), leads(t, guest, "tcp")
	if err := s.Set([]banger.Published{a}, nil); err != nil {
		t.Fatal(err)
	}
	if err := echo(t, a); err != nil {
		t.Error(err)
	}
	old, err := net.Dial("tcp", address(a))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	on := func() {
		t.Helper()
		if _, err := old.Write([]byte("on")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(old, make([]byte, 2)); err != nil {
			t.Error(err)
		}
	}
	on()

	// One that is taken changes nothing, and the error names another.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := banger.Published{Port: taken.Addr().(*net.TCPAddr).Port, Guest: guest, Protocol: "tcp"}
	err = s.Set([]banger.Published{b, c}, nil)
	if e := banger.AsError(err); e.Code != banger.CodeConflict || !strings.Contains(e.Hint, "is free") {
		t.Errorf("%+v", e)
	}
	if err := echo(t, a); err != nil {
		t.Errorf("after what was refused: %v", err)
	}
	if _, err := net.Dial("tcp", address(b)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("half of what was refused is there: %v", err)
	}

	// Open connections go on when their port goes.
	if err := s.Set([]banger.Published{b}, nil); err != nil {
		t.Fatal(err)
	}
	on()
	if _, err := net.Dial("tcp", address(a)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("it still listens: %v", err)
	}
	if err := echo(t, b); err != nil {
		t.Error(err)
	}

	// Nobody there is told by a reset.
	d := leads(t, 1, "tcp")
	if err := s.Set([]banger.Published{d}, nil); err != nil {
		t.Fatal(err)
	}
	if err := echo(t, d); err == nil {
		t.Error("port 1 answers")
	}
	s.Close()
	if err := s.Set([]banger.Published{a}, nil); err == nil || err.Error() != "the VM has ended" {
		t.Error(err)
	}
}

// In a young guest a connection waits for the program that is to take it.
func TestYoungGuest(t *testing.T) {
	s := server(t, time.Now())
	later := leads(t, 1, "tcp") // a port that is free, for the program
	p := leads(t, later.Port, "tcp")
	if err := s.Set([]banger.Published{p}, nil); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", address(p))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := net.Listen("tcp", address(later))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestUDP(t *testing.T) {
	s := server(t, time.Time{})
	inGuest, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer inGuest.Close()
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := inGuest.ReadFromUDP(b)
			if err != nil {
				return
			}
			_, _ = inGuest.WriteToUDP(b[:n], from)
		}
	}()
	p := leads(t, inGuest.LocalAddr().(*net.UDPAddr).Port, "udp")
	if err := s.Set([]banger.Published{p}, nil); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		c, err := net.Dial("udp", address(p))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want := bytes.Repeat([]byte{byte('a' + n)}, 1000*n+1)
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 65536)
		if k, err := c.Read(got); err != nil || !bytes.Equal(got[:k], want) {
			t.Errorf("%d bytes, %v", k, err)
		}
	}
}

// A port that somebody took while no server was there is published when it is free.
func TestKeep(t *testing.T) {
	s := server(t, time.Time{})
	p := leads(t, echoes(t), "tcp")
	l, err := net.Listen("tcp", address(p))
	if err != nil {
		t.Fatal(err)
	}
	s.Keep([]banger.Published{p})
	if err := s.Set([]banger.Published{p}, nil); err != nil { // it is as good as published
		t.Error(err)
	}
	_ = l.Close()
	for err = echo(t, p); errors.Is(err, syscall.ECONNREFUSED); err = echo(t, p) {
	}
	if err != nil {
		t.Error(err)
	}
}

// Sockets go from process to process with what waits at them.
func TestHanded(t *testing.T) {
	s := server(t, time.Time{})
	p := leads(t, echoes(t), "tcp")
	held, err := published.Host{}.Take("", []banger.Published{p})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", address(p)) // waits
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	near, file, err := unixsock.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := unixsock.Take(file)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if err := published.Send(near, held); err != nil {
		t.Fatal(err)
	}
	published.Close(held)
	var ports []banger.Published
	for _, h := range held {
		ports = append(ports, h.Published)
	}
	got, err := published.Receive(far, ports, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set([]banger.Published{p}, got); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("on")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Error(err)
	}
	if err := published.Send(near, got[:1]); err != nil {
		t.Fatal(err)
	}
	if _, err := published.Receive(far, append(ports, p), time.Now().Add(time.Minute)); err == nil || !strings.Contains(err.Error(), "sockets came in place of") {
		t.Error(err)
	}
}

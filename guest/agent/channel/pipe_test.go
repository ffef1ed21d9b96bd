package channel

import (
	"io"
	"net"
	"testing"

	"banger/guest/link"
)

// Hosts come and go in the middle of what they say; each new one gets through to
// the guest, and only to itself.
func TestOneHostAfterAnother(t *testing.T) {
	p := newPipe()
	guest := link.New(p, link.Guest)
	defer guest.Close()
	go func() {
		for {
			c, err := guest.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // echo
			}()
		}
	}()
	for i := range 20 {
		ours, theirs := net.Pipe()
		if i%3 == 1 {
			p.take(theirs) // replaced before it said a word
			continue
		}
		p.take(theirs)
		host := link.New(ours, link.Host)
		s, err := host.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text := make([]byte, 100_000)
		text[0], text[len(text)-1] = byte(i), byte(i)
		go func() { _, _ = s.Write(text) }()
		got := make([]byte, len(text))
		want := len(got)
		if i%3 == 2 {
			want = 10 // breaks off in the middle
		}
		if _, err := io.ReadFull(s, got[:want]); err != nil || got[0] != byte(i) {
			t.Fatalf("host %d read %d: %v", i, got[0], err)
		}
		_ = host.Close()
	}
}

func TestClosed(t *testing.T) {
	p := newPipe()
	done := make(chan error)
	go func() {
		_, err := p.Read(make([]byte, 1))
		done <- err
	}()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != io.ErrClosedPipe {
		t.Errorf("Read: %v", err)
	}
	if _, err := p.Write([]byte("x")); err != io.ErrClosedPipe {
		t.Errorf("Write: %v", err)
	}
	ours, theirs := net.Pipe()
	p.take(theirs)
	if _, err := ours.Write([]byte("x")); err == nil {
		t.Error("a closed pipe took a connection")
	}
}

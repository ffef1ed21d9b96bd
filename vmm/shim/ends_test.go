package shim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"banger/guest"
	"banger/guest/link"
	"banger/vmm/shim"
)

// A client that asks for it tells a stream's end from its breaking, whichever side of
// the connection ended first.
func TestEndsAreToldFromBreaks(t *testing.T) {
	t.Parallel()
	cfg, _ := spawn(t)
	dial := func() net.Conn {
		t.Helper()
		c, sure, err := shim.DialEnds(t.Context(), cfg.Dir)
		if err != nil || !sure {
			t.Fatalf("sure: %v, %v", sure, err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	whole := dial()
	want := bytes.Repeat([]byte("0123456789"), 20_000)
	go func() {
		_, _ = whole.Write(append([]byte("e"), want...))
		_ = whole.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, err := io.ReadAll(whole); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
	}
	if n, err := whole.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("behind the end are %d bytes, %v", n, err)
	}

	half := dial()
	if _, err := half.Write([]byte("r")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(half, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if _, err := half.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	if n, err := half.Read(make([]byte, 1)); n != 0 || !errors.Is(err, shim.ErrBroken) {
		t.Errorf("a stream that broke has %d bytes more, %v", n, err)
	}

	killed := dial()
	if _, err := killed.Write([]byte("e")); err != nil {
		t.Fatal(err)
	}
	st, err := shim.GetStatus(t.Context(), cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, st.Shim)
	if n, err := killed.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("a stream of a dead shim has %d bytes, %v", n, err)
	}
}

// A shim of before can't tell, and that is said.
func TestOldShimCantTell(t *testing.T) {
	t.Chdir(t.TempDir()) // a socket's path is short
	l, err := net.Listen("unix", shim.SocketFile)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go oldShim(l, map[string]json.RawMessage{"dial": json.RawMessage("{}")})
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c, sure, err := shim.DialEnds(t.Context(), dir)
	if err != nil || sure {
		t.Fatalf("sure: %v, %v", sure, err)
	}
	_ = c.Close()
}

// A shim that says what it can't mean is one whose stream broke.
func TestPieceTooLong(t *testing.T) {
	t.Chdir(t.TempDir()) // a socket's path is short
	l, err := net.Listen("unix", shim.SocketFile)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go oldShim(l, map[string]json.RawMessage{"dial": json.RawMessage(`{"ends":true}`)})
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := shim.DialEnds(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil { // comes back as a length
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, shim.ErrBroken) || err == shim.ErrBroken {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// Who keeps the VM has a place when users have taken all of theirs.
func TestControlStreamsHavePlaces(t *testing.T) {
	t.Parallel()
	cfg, _ := spawn(t)
	take(t, cfg, link.MaxStreams)
	if c, err := shim.Dial(t.Context(), cfg.Dir); err == nil {
		_ = c.Close()
		t.Fatal("there is room for one more")
	}
	c, err := shim.Dial(guest.WithControl(t.Context()), cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

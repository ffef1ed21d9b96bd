package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"os"
	"testing"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"banger"
	"banger/api"
)

// A channel carries any bytes both ways, however the client takes it; its guest's
// end is its end.
func TestChannel(t *testing.T) {
	agentSide := make(chan net.Conn, 1)
	path := socket(t)
	serve(t, path, &services{dial: func(_ context.Context, ref string) (net.Conn, error) {
		near, far := net.Pipe()
		if ref == "socket" {
			near, far = socketPair(t)
		}
		agentSide <- far
		return near, nil
	}})
	for how, dial := range map[string]func() (net.Conn, error){
		"a descriptor":                  func() (net.Conn, error) { return connect(path).Dial(t.Context(), "socket") },
		"a descriptor of what has none": func() (net.Conn, error) { return connect(path).Dial(t.Context(), "pipe") },
		"a WebSocket":                   func() (net.Conn, error) { return webSocket(t, path) },
	} {
		t.Run(how, func(t *testing.T) { carries(t, dial, agentSide) })
	}
}

// carries tries a channel that dial opens, whose other end arrives.
func carries(t *testing.T, dial func() (net.Conn, error), agentSide <-chan net.Conn) {
	t.Helper()
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	far := <-agentSide
	data := make([]byte, 3<<20+17)
	_, _ = rand.Read(data)
	go func() { _, _ = conn.Write(data) }()
	echo := make([]byte, len(data))
	go func() {
		up := make([]byte, len(data))
		_, _ = io.ReadFull(far, up)
		_, _ = far.Write(up)
		_ = far.Close()
	}()
	n, err := io.ReadFull(conn, echo)
	if err != nil || !bytes.Equal(echo, data) {
		t.Fatalf("%d of %d bytes came back right, %v", n, len(data), err)
	}
	if _, err := conn.Read(echo); err != io.EOF {
		t.Errorf("after the guest's end: %v, want EOF", err)
	}
	_ = conn.Close()

	if conn, err = dial(); err != nil {
		t.Fatal(err)
	}
	far = <-agentSide
	_ = conn.Close()
	if _, err := far.Read(echo); err == nil {
		t.Error("the client's close doesn't reach the guest")
	}
}

// webSocket opens a channel as a client that can't take descriptors does.
func webSocket(t *testing.T, path string) (net.Conn, error) {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), "http://banger/v1/vms/web/channel", &websocket.DialOptions{HTTPClient: &http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return api.Connect(ctx, path) }},
	}})
	if err != nil {
		return nil, err
	}
	return websocket.NetConn(t.Context(), ws, websocket.MessageBinary), nil
}

// socketPair is a stream of the kernel's, as a shim's is.
func socketPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return ends[0], ends[1]
}

// A stream that was handed over lives on without the daemon.
func TestStreamOutlivesDaemon(t *testing.T) {
	agentSide := make(chan net.Conn, 1)
	path := socket(t)
	end := serve(t, path, &services{dial: func(context.Context, string) (net.Conn, error) {
		near, far := socketPair(t)
		agentSide <- far
		return near, nil
	}})
	conn, err := connect(path).Dial(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	far := <-agentSide
	end()
	if _, err := conn.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(far, got); err != nil || string(got) != "still here" {
		t.Errorf("the guest got %q, %v", got, err)
	}
	_ = conn.Close()
	if _, err := far.Read(got); err != io.EOF {
		t.Errorf("after the client's close: %v, want EOF", err)
	}
}

// A daemon that ends closes what it carries, and doesn't wait for it.
func TestEndClosesChannels(t *testing.T) {
	agentSide := make(chan net.Conn, 1)
	held := make(chan bool)
	path := socket(t)
	end := serve(t, path, &services{
		dial: func(context.Context, string) (net.Conn, error) {
			near, far := net.Pipe()
			agentSide <- far
			return near, nil
		},
		vm:   func(context.Context, string) (banger.VM, error) { return aVM, nil },
		hold: func(ctx context.Context, _ string) error { close(held); <-ctx.Done(); return nil },
	})
	c := connect(path)
	conn, err := c.Dial(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = c.HoldVM(ctx, "web") }()
	wait(t, held)
	end()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the client's end is still open")
	}
	if _, err := (<-agentSide).Read(make([]byte, 1)); err == nil {
		t.Error("the guest's end is still open")
	}
}

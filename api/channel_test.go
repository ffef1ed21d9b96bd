package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"banger"
	"banger/api"
	"banger/host/unixsock"
	"banger/version"
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
		"a descriptor":                  func() (net.Conn, error) { return connect(path).VMs().Dial(t.Context(), "socket") },
		"a descriptor of what has none": func() (net.Conn, error) { return connect(path).VMs().Dial(t.Context(), "pipe") },
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
	ws, _, err := websocket.Dial(t.Context(), "http://banger/v2/vms/web/channel", &websocket.DialOptions{HTTPClient: &http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, path) }},
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
	conn, err := connect(path).VMs().Dial(t.Context(), "web")
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
		hold: func(ctx context.Context, _ string, _ func()) error { close(held); <-ctx.Done(); return nil },
	})
	c := connect(path)
	conn, err := c.VMs().Dial(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = c.VMs().HoldVM(ctx, "web", nil) }()
	wait(t, held)
	end()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the client's end is still open")
	}
	if _, err := (<-agentSide).Read(make([]byte, 1)); err == nil {
		t.Error("the guest's end is still open")
	}
}

// A daemon that breaks its promise is told of, and isn't asked again.
func TestNoStream(t *testing.T) {
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	raw, err := udp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var rights []byte
	if err := raw.Control(func(fd uintptr) { rights = unix.UnixRights(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: banger-descriptor\r\n\r\n"
	for want, answer := range map[string]struct {
		text   string
		rights []byte
	}{
		"without a stream":            {switching, nil},
		"answered 204":                {"HTTP/1.1 204 No Content\r\n\r\n", nil},
		"no Unix":                     {switching, rights},
		"answered 500 Internal Error": {"HTTP/1.1 500 Internal Error\r\nContent-Length: 0\r\n\r\n", nil},
	} {
		path := filepath.Join(t.TempDir(), "sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("GET /v2/version", func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(version.Daemon{API: version.API})
		})
		mux.HandleFunc("GET /v2/vms/web/channel", func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, _, err := c.(*net.UnixConn).WriteMsgUnix([]byte(answer.text), answer.rights, nil); err != nil {
				t.Error(err)
			}
		})
		daemon := &http.Server{Handler: mux}
		go func() { _ = daemon.Serve(l) }()
		if _, err := connect(path).VMs().Dial(t.Context(), "web"); banger.CodeOf(err) != banger.CodeInternal || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		_ = daemon.Close()
	}
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		if req, err := http.ReadRequest(bufio.NewReader(far)); err != nil || req.URL.Path != "/v2/version" {
			t.Errorf("%v, %v", req, err)
		}
		body := fmt.Sprintf(`{"api":%d}`, version.API)
		fmt.Fprintf(far, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}()
	c := api.NewClient(func(context.Context) (net.Conn, error) { return near, nil })
	if _, err := c.VMs().Dial(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "only be taken from a Unix socket") {
		t.Errorf("from what is no socket: %v", err)
	}
}

package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"banger"
	"banger/daemon/proxy"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/host/loopback"
)

// house is VMs whose guest is this process: what listens here listens in each of them.
type house struct {
	banger.VMService
	agent  string
	starts atomic.Int32
	began  chan struct{} // a start waits until it is closed, unless nil
	fails  error         // of a start
	late   atomic.Bool   // the list shows VMs as running that have stopped since

	mu  sync.Mutex
	all []banger.VM
}

func (h *house) VMs(context.Context) ([]banger.VM, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := append([]banger.VM(nil), h.all...)
	for i := range all {
		if h.late.Load() {
			all[i].State = banger.Running
		}
	}
	return all, nil
}

func (h *house) VM(_ context.Context, id string) (banger.VM, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, vm := range h.all {
		if vm.ID == id {
			return vm, nil
		}
	}
	return banger.VM{}, banger.Errorf(banger.CodeNotFound, "no VM %q", id)
}

func (h *house) StartVM(ctx context.Context, id string, _ banger.StartOptions, _ banger.Progress) (banger.VM, error) {
	h.starts.Add(1)
	if h.began != nil {
		<-h.began
	}
	if h.fails != nil {
		return banger.VM{}, h.fails
	}
	h.mu.Lock()
	for i := range h.all {
		if h.all[i].ID == id {
			h.all[i].State, h.all[i].Started = banger.Running, time.Now()
		}
	}
	h.mu.Unlock()
	return h.VM(ctx, id)
}

func (h *house) Dial(ctx context.Context, id string) (net.Conn, error) {
	if vm, err := h.VM(ctx, id); err != nil || vm.State != banger.Running {
		return nil, errors.Join(err, banger.Errorf(banger.CodeNotRunning, "it isn't running"))
	}
	return new(net.Dialer).DialContext(ctx, "unix", h.agent)
}

// serve runs a proxy for a house and returns its port.
func serve(t *testing.T, h *house, names ...string) int {
	t.Helper()
	h.agent = t.TempDir() + "/a"
	l, err := net.Listen("unix", h.agent)
	if err != nil {
		t.Fatal(err)
	}
	s := &agent.Server{Sessions: &session.Table{}}
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	for i, name := range names {
		name, stopped := strings.CutSuffix(name, " stopped")
		vm := banger.VM{ID: fmt.Sprintf("%012x", i+1), State: banger.Running, Spec: banger.Spec{Name: name, Image: "debian-12"}}
		if stopped {
			vm.State = banger.Stopped
		}
		h.all = append(h.all, vm)
	}
	port, err := loopback.Free(20000 + rand.IntN(20000))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy.Server{VMs: h, Look: h.Dial, Port: port, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended; _ = l.Close(); <-served })
	if at := until(t, p, func(at banger.Proxy) bool { return at.Serving || at.Problem != "" }); !at.Serving {
		t.Fatal(at.Problem)
	}
	return port
}

// until waits for what a proxy says of itself.
func until(t *testing.T, p *proxy.Server, cond func(banger.Proxy) bool) banger.Proxy {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		at, err := p.Proxy(t.Context())
		if err != nil || time.Now().After(end) {
			t.Fatalf("%+v, %v", at, err)
		}
		if cond(at) {
			return at
		}
	}
}

// ask gets a path of a host from the proxy at a port.
func ask(t *testing.T, port int, host, path string, head ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("http://127.0.0.1:%d%s", port, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for i := 0; i+1 < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatalf("%s%s: %v", host, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// portOf is the port of a server's URL.
func portOf(t *testing.T, s *httptest.Server) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func TestNames(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s|%s|%s|%s|%s", r.Host, r.Header.Get("X-Forwarded-Host"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"), r.URL)
	}))
	t.Cleanup(server.Close)
	n := portOf(t, server)
	port := serve(t, &house{}, "web", "3000-web", "a-b-c")
	for host, want := range map[string]string{
		n + ".web.localhost:8788":      "200 " + n + ".web.localhost:8788|" + n + ".web.localhost:8788|http|127.0.0.1|/p%2Fq?x=1;y",
		n + "-web.localhost":           "200 " + n + "-web.localhost",
		n + "-a-b-c.localhost.":        "200 " + n + "-a-b-c",
		n + ".3000-web.LOCALHOST":      "200 " + n + ".3000-web",
		n + "-3000-web.localhost":      "200 " + n + "-3000-web",
		n + ".none.localhost":          `404 banger: no VM "none"`,
		n + ".web.other.localhost":     "404 banger:",
		"0.web.localhost":              "404 banger:",
		"070.web.localhost":            "404 banger:",
		"65536.web.localhost":          "404 banger:",
		"evil.example:8788":            "421 banger:",
		n + ".web.localhost.evil.com":  "421 banger:",
		"192.0.2.1":                    "421 banger:",
		"weblocalhost":                 "421 banger:",
		"000000000001.localhost":       "404 banger:", // an id is no name
		n + ".000000000001.localhost":  "404 banger:",
		"ports.web.localhost/../../..": "421 banger:",
	} {
		resp, body := ask(t, port, host, "/p%2Fq?x=1;y", "X-Forwarded-For", "6.6.6.6", "X-Forwarded-Host", "liar")
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %s, want %s", host, got, want)
		}
	}
	for host, want := range map[string]string{
		"localhost:8788": "<h1>VMs</h1>", "127.0.0.1:8788": "<h1>VMs</h1>", "[::1]:8788": "<h1>VMs</h1>",
		"web.localhost": "</span>web</h1>", "ports.3000-web.localhost": "</span>3000-web</h1>", "a-b-c.localhost": "</span>a-b-c</h1>",
	} {
		if resp, body := ask(t, port, host, "/"); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", host, resp.StatusCode, body)
		}
	}
	if _, body := ask(t, port, "localhost:99", "/"); !strings.Contains(body, `href="http://ports.3000-web.localhost:99/"`) || !strings.Contains(body, `href="http://web.localhost:99/"`) {
		t.Errorf("links: %s", body)
	}
}

// What a server sends the browser gets at once, both ways of a WebSocket too, and an answer
// that breaks off in the guest breaks off for the browser.
func TestStreams(t *testing.T) {
	on := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			ws, err := websocket.Accept(w, r, nil) // it compares the origin with the host
			if err != nil {
				return
			}
			kind, text, err := ws.Read(r.Context())
			if err == nil {
				_ = ws.Write(r.Context(), kind, append([]byte("echo "), text...))
			}
			_ = ws.Close(websocket.StatusNormalClosure, "")
		case "/events":
			_, _ = io.WriteString(w, "data: one\n\n")
			_ = http.NewResponseController(w).Flush()
			<-on
			_, _ = io.WriteString(w, "data: two\n\n")
		case "/broken":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "part")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(server.Close)
	port := serve(t, &house{}, "web")
	host := portOf(t, server) + ".web.localhost"
	dial := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	}}
	t.Cleanup(dial.CloseIdleConnections)
	client := &http.Client{Transport: dial}

	ws, _, err := websocket.Dial(t.Context(), "ws://"+host+"/ws", &websocket.DialOptions{HTTPClient: client, HTTPHeader: http.Header{"Origin": {"http://" + host}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, text, err := ws.Read(t.Context()); err != nil || string(text) != "echo hello" {
		t.Errorf("WebSocket: %q, %v", text, err)
	}
	_ = ws.CloseNow()

	resp, err := client.Get("http://" + host + "/events")
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, len("data: one\n\n"))
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "data: one\n\n" {
		t.Errorf("first event: %q, %v", first, err)
	}
	close(on)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "data: two\n\n" {
		t.Errorf("second event: %q, %v", rest, err)
	}
	_ = resp.Body.Close()

	if resp, err = client.Get("http://" + host + "/broken"); err == nil {
		var got []byte
		got, err = io.ReadAll(resp.Body)
		if err == nil {
			t.Errorf("a broken answer is whole: %q", got)
		}
		_ = resp.Body.Close()
	}
}

// A burst starts a stopped VM once, and waits. Another site's page starts none, unless a
// person followed its link.
func TestStart(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	t.Cleanup(server.Close)
	h := &house{began: make(chan struct{})}
	port := serve(t, h, "web stopped", "bad stopped")
	host := portOf(t, server) + ".web.localhost"
	foreign := []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}
	for name, head := range map[string][]string{
		"image":                    {"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"},
		"script that navigates":    {"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"},
		"WebSocket":                {"Origin", "https://evil.example"},
		"sandboxed WebSocket":      {"Origin", "null"},
		"WebSocket of a lookalike": {"Origin", "http://localhost.evil.example:8788"},
	} {
		for _, late := range []bool{false, true} {
			h.late.Store(late)
			resp, body := ask(t, port, host, "/", head...)
			if resp.StatusCode != 403 || !strings.Contains(body, "VM web is stopped, and another site's page may not start it") || !strings.Contains(body, "banger start web") {
				t.Errorf("another site's %s (just stopped: %v): %d %s", name, late, resp.StatusCode, body)
			}
		}
	}
	h.late.Store(false)
	if _, body := ask(t, port, "web.localhost", "/"); !strings.Contains(body, "It is stopped.") {
		t.Errorf("its page: %s", body)
	}
	if n := h.starts.Load(); n != 0 {
		t.Fatalf("%d starts", n)
	}
	var burst sync.WaitGroup
	var asked atomic.Int32
	heads := [][]string{
		{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-User", "?1"},
		{"Sec-Fetch-Site", "same-origin"},
		{"Origin", "http://3000.web.localhost:8788"}, // a WebSocket's
		nil, // no browser
	}
	for i := range 50 {
		burst.Go(func() {
			if asked.Add(1) == 50 {
				close(h.began)
			}
			if resp, body := ask(t, port, host, "/", heads[i%len(heads)]...); resp.StatusCode != 200 || body != "hello" {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
	burst.Wait()
	if n := h.starts.Load(); n != 1 {
		t.Errorf("%d starts for one burst", n)
	}
	if resp, _ := ask(t, port, host, "/", foreign...); resp.StatusCode != 200 {
		t.Errorf("another site's image of a running VM: %d", resp.StatusCode)
	}
	h.fails = banger.Errorf(banger.CodeUnavailable, "there is no room").WithHint("make some")
	if resp, body := ask(t, port, "80.bad.localhost", "/"); resp.StatusCode != 503 || body != "banger: there is no room\nmake some\n" {
		t.Errorf("a start that fails: %d %s", resp.StatusCode, body)
	}
}

// After a start the port is waited for; later a port that nobody has is said at once.
func TestPortComesUp(t *testing.T) {
	free, err := loopback.Free(41000 + rand.IntN(1000))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{}
	port := serve(t, h, "web")
	host := fmt.Sprintf("%d.web.localhost:1234", free)
	resp, body := ask(t, port, host, "/", "Accept", "text/html")
	if resp.StatusCode != 502 || !strings.Contains(body, "Nothing listens on port") || !strings.Contains(body, "http://web.localhost:1234/") {
		t.Fatalf("nothing there: %d %s", resp.StatusCode, body)
	}
	h.mu.Lock()
	h.all[0].Started = time.Now()
	h.mu.Unlock()
	got := make(chan string)
	go func() {
		_, body := ask(t, port, host, "/")
		got <- body
	}()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", free))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up") })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	if body := <-got; body != "up" {
		t.Errorf("%s", body)
	}
}

// A guest's words are shown as they are, and its cookies reach it alone.
func TestHostileGuest(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for _, c := range []string{"a=1; Domain=localhost", "b=2; domain=.LOCALHOST.; Path=/", "c=3; Path=/", "d=4; Domain=web.localhost",
			"e=5; Domain = localhost ", "f=6;\tDOMAIN\t=\tlocalhost; Domain=web.localhost", "g=7; Domain=local%68ost", `h={"a":"b, c"}; Path=/`, `i="x y"; Domain=`, "=domain=localhost", "j"} {
			w.Header().Add("Set-Cookie", c)
		}
	}))
	t.Cleanup(server.Close)
	h := &house{}
	port := serve(t, h, "web")
	resp, _ := ask(t, port, portOf(t, server)+".web.localhost", "/")
	if got := strings.Join(resp.Header.Values("Set-Cookie"), ","); got != `c=3; Path=/,d=4; Domain=web.localhost,h={"a":"b, c"}; Path=/,i="x y"; Domain=,=domain=localhost,j` {
		t.Errorf("cookies: %s", got)
	}
	h.mu.Lock()
	h.all[0].Spec.Image = `<script>alert(1)</script>"' onload=x`
	h.mu.Unlock()
	resp, body := ask(t, port, "localhost", "/")
	if strings.Contains(body, "<script>") || !strings.Contains(body, "&lt;script&gt;alert(1)") {
		t.Errorf("not escaped: %s", body)
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy: %s", csp)
	}
	for _, path := range []string{"/x", "/page/page.html", "/page.css"} {
		if resp, _ := ask(t, port, "localhost", path); resp.StatusCode != 404 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	// The page shows this test's own server, by the name of its program.
	if _, body := ask(t, port, "web.localhost", "/"); !strings.Contains(body, "http://"+portOf(t, server)+".web.localhost/") || !strings.Contains(body, "<strong>proxy.test</strong>") {
		t.Errorf("ports: %s", body)
	}
}

func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	p := &proxy.Server{VMs: &house{}, Port: l.Addr().(*net.TCPAddr).Port, Log: slog.New(slog.NewTextHandler(&log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	at := until(t, p, func(at banger.Proxy) bool { return at.Problem != "" })
	var free int
	if _, err := fmt.Sscanf(at.Hint, "set proxy_port = %d", &free); err != nil || free <= at.Port || at.Serving {
		t.Errorf("%+v, %v", at, err)
	}
	_ = l.Close() // and once it is free it is taken
	until(t, p, func(at banger.Proxy) bool { return at.Serving })
	cancel()
	<-ended
	if !strings.Contains(log.String(), "is taken") || !strings.Contains(log.String(), "browsers reach VMs") {
		t.Error(log.String())
	}
}

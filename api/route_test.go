package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"banger"
	"banger/api"
	"banger/host/unixsock"
	"banger/version"
)

// plainHTTP is a client of a socket that knows nothing of banger.
func plainHTTP(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, path) }}}
}

// asked makes a request and returns its answer.
func asked(t *testing.T, path, method, url, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://banger"+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := plainHTTP(path).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// What can't be asked for is refused with the status that says why, and does nothing.
func TestRefusals(t *testing.T) {
	path := socket(t)
	serve(t, path, &services{}) // each service would panic
	for _, c := range []struct {
		way, body string
		status    int
		want      string
	}{
		{"PUT /v2/vms", "", 405, `"code":"invalid","message":"PUT can't be done to /v2/vms"`},
		{"GET /v2/vms/web/start", "", 405, "what can be: POST"},
		{"TRACE /v2/vms/web", "", 405, "GET, HEAD, PATCH, DELETE"},
		{"POST /v2/vms//start", "", 404, "no such route: POST /v2/vms//start"},
		{"GET /v2/vms/../vms", "", 404, "no such route"},
		{"GET /v2/nosuch", "", 404, `"code":"not_found"`},
		{"GET /v1/vms", "", 404, "no such route"},
		{"GET /v2/vms?all=true", "", 400, `no query parameter \"all\"`},
		{"POST /v2/vms/web/start?cold=true", "", 400, `no query parameter \"cold\"`},
		{"GET /v2/vms/web/channel", "", 400, "the request upgrades to none of them"},
		{"GET /v2/events?follow=yes", "", 400, "true or false is needed"},
		{"GET /v2/events?follow=true&follow=true", "", 400, "is there 2 times"},
		{"GET /v2/events?follow=%zz", "", 400, "the query can't be read"},
		{"GET /v2/vms", `{"x":1}`, 400, "unknown field"},
		{"POST /v2/vms/web/stop", `{"timeout_ms":-1}`, 400, "timeout_ms is -1"},
		{"POST /v2/vms/web/restart", `{"timeout_ms":-1}`, 400, "timeout_ms is -1"},
		{"POST /v2/prune", "null", 400, "the request is null"},
		{"POST /v2/vms/web/stop", `{"timeout":1}`, 400, "unknown field"},
	} {
		method, url, _ := strings.Cut(c.way, " ")
		resp, text := asked(t, path, method, url, c.body)
		if resp.StatusCode != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %s, %s", c.way, c.body, resp.Status, text)
		}
		if c.status == 405 && (resp.Header.Get("Allow") == "" || !strings.Contains(text, resp.Header.Get("Allow"))) {
			t.Errorf("%s: allowed is %q, the error says %s", c.way, resp.Header.Get("Allow"), text)
		}
	}
}

// A code has a status of its own kind.
func TestStatusOfCodes(t *testing.T) {
	for code, want := range map[banger.Code]int{
		banger.CodeInvalid: 400, banger.CodeForbidden: 403, banger.CodeNotFound: 404, banger.CodeConflict: 409, banger.CodeNotRunning: 409,
		banger.CodeCanceled: 499, banger.CodeInternal: 500, banger.CodeUnavailable: 503, banger.CodeTimeout: 504,
	} {
		path := socket(t)
		serve(t, path, &services{vm: func(context.Context, string) (banger.VM, error) { return banger.VM{}, banger.Errorf(code, "no") }})
		if resp, text := asked(t, path, "GET", "/v2/vms/web", ""); resp.StatusCode != want || !strings.HasPrefix(text, `{"error":{"code":"`+string(code)) {
			t.Errorf("%s: %s, %s", code, resp.Status, text)
		}
	}
}

// All paths are of the version that the daemon says it speaks.
func TestPathsHaveTheVersion(t *testing.T) {
	names := map[string]bool{}
	for _, rt := range api.Routes() {
		if !strings.HasPrefix(rt.Path, fmt.Sprintf("/v%d/", version.API)) {
			t.Errorf("%s %s isn't of version %d", rt.Method, rt.Path, version.API)
		}
		if names[rt.Name] || rt.Name == "" || rt.Summary == "" {
			t.Errorf("%s %s has the name %q and the summary %q", rt.Method, rt.Path, rt.Name, rt.Summary)
		}
		names[rt.Name] = true
	}
}

// A client of before, which knows /v1 alone, learns that it is too old and can end
// the daemon.
func TestFormerClient(t *testing.T) {
	path := socket(t)
	end := serve(t, path, &services{})
	var d version.Daemon
	if _, text := asked(t, path, "GET", "/v1/version", ""); json.Unmarshal([]byte(text), &d) != nil || d.API == 2 || d.PID == 0 || d.Build == "" {
		t.Errorf("it is told %s", text)
	}
	if resp, text := asked(t, path, "POST", "/v1/stop", ""); resp.StatusCode != 200 || strings.TrimSpace(text) != "{}" {
		t.Errorf("stop: %s, %s", resp.Status, text)
	}
	end()
}

// A daemon of before is known by what it doesn't know; the connection on which it
// was asked goes on.
func TestFormerDaemon(t *testing.T) {
	path := socket(t)
	l, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan bool, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"error":{"code":"not_found","message":"no such route"}}`+"\n")
	})
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"api":2,"build":"v0.1.0","pid":7,"busy":3}`)
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "{}"); stopped <- true })
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	defer func() { _ = srv.Close() }()
	conn, err := unixsock.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if d, err := api.Hello(t.Context(), conn); err != nil || d != (version.Daemon{API: 1, Build: "v0.1.0", PID: 7, Busy: 3}) {
		t.Errorf("it is %+v, %v", d, err)
	}
	if err := api.Stop(t.Context(), conn); err != nil {
		t.Error(err)
	}
	wait(t, stopped)
	if _, err := connect(path).VMs().VMs(t.Context()); banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "API version 1") {
		t.Errorf("asked for VMs: %v", err)
	}
}

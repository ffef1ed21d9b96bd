package tests_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	root "banger"
	"banger/api"
	"banger/api/wire"
	"banger/host/unixsock"
)

var examples = flag.Int("examples", 15, "how many requests schemathesis makes up for each route")

// schemathesis is the program that makes up requests by a description and judges the
// answers by it. It is installed once.
func schemathesis(t *testing.T) string {
	t.Helper()
	const version = "4.32.5"
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(cache, "banger-test", "schemathesis-"+version)
	if exe := filepath.Join(dir, "bin/st"); exec.Command(exe, "--version").Run() == nil {
		return exe
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	for _, args := range [][]string{{python, "-m", "venv", "--clear", dir}, {filepath.Join(dir, "bin/pip"), "install", "-q", "schemathesis==" + version}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("schemathesis can't be installed here: %q: %v\n%s", args, err, out)
		}
	}
	return filepath.Join(dir, "bin/st")
}

// untried are operations that schemathesis leaves out, with the reason.
var untried = map[string]string{
	"Stop":   "it ends the daemon",
	"Dial":   "it is another protocol from then on",
	"HoldVM": "its answer has no end while the client stays",
}

// Whatever is asked, by the description or against it, no answer is a bug's, and none is
// outside of the description.
func TestSchemathesis(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a while")
	}
	st := schemathesis(t)
	socket := newDaemon(t, "no-commands") // for guests are this host, and files and commands are made up, too
	c := stocked(t, socket)
	names := map[string][]string{"image": {"debian-12"}, "kernel": {"debian-12-cloud"}}
	for i := range 12 {
		name := fmt.Sprintf("vm%d", i)
		op, err := c.Operations().BeginCreate(t.Context(), root.Spec{Name: name}, i%2 == 0)
		if err != nil {
			t.Fatal(err)
		}
		names["vm"], names["operation"] = append(names["vm"], name), append(names["operation"], op.ID)
	}
	frozen, err := c.Templates().CreateTemplate(t.Context(), root.TemplateSpec{Net: root.NetUser}, nil)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{
		ErrorLog:  log.New(t.Output(), "proxy: ", log.Lmicroseconds),
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, socket) }},
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "banger" },
	}
	names["template"] = []string{frozen.ID}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A ReverseProxy cuts an answer that comes before it has seen its request's end.
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		forward.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	hooks, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "openapi.json"), withNames(t, names), 0o600); err != nil {
		t.Fatal(err)
	}
	var keep, remove []string
	for _, rt := range api.Routes() {
		switch {
		case untried[rt.Name] != "":
		case rt.Method == http.MethodDelete, strings.HasSuffix(rt.Path, "/prune"):
			remove = append(remove, rt.Name) // at last: they leave nothing for the others
		default:
			keep = append(keep, rt.Name)
		}
	}
	for _, operations := range [][]string{keep, remove} {
		args := []string{
			"run", "openapi.json", "--url", proxy.URL, "--no-color", "--seed", "1", "--max-examples", fmt.Sprint(*examples), "--phases", "examples,coverage,fuzzing",
			"--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method,allow_header_conformance",
			"--request-timeout", "60", "--suppress-health-check", "all", "--continue-on-failure",
		}
		for _, name := range operations {
			args = append(args, "--include-operation-id", name)
		}
		cmd := exec.CommandContext(t.Context(), st, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PYTHONPATH="+hooks, "SCHEMATHESIS_HOOKS=schemathesis_hooks")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		if !strings.Contains(string(out), fmt.Sprintf("%d selected", len(operations))) {
			t.Errorf("not all %d routes were tried", len(operations))
		}
	}
}

// withNames is the description with names of things that there are, without what has no
// end, and with lines as a list.
func withNames(t *testing.T, names map[string][]string) []byte {
	t.Helper()
	var document struct {
		OpenAPI    string                               `json:"openapi"`
		Info       any                                  `json:"info"`
		Paths      map[string]map[string]map[string]any `json:"paths"`
		Components any                                  `json:"components"`
	}
	if err := json.Unmarshal(api.Description, &document); err != nil {
		t.Fatal(err)
	}
	for _, item := range document.Paths {
		for _, operation := range item {
			params, _ := operation["parameters"].([]any)
			left := []any{}
			for _, p := range params {
				p := p.(map[string]any)
				if p["name"] == "follow" {
					continue
				}
				if p["in"] == "path" {
					p["schema"] = map[string]any{"type": "string", "enum": append(names[p["name"].(string)], "nosuch")}
				}
				left = append(left, p)
			}
			operation["parameters"] = left
			for _, response := range operation["responses"].(map[string]any) {
				content, _ := response.(map[string]any)["content"].(map[string]any)
				if lines, ok := content[wire.LinesType].(map[string]any); ok { // the hooks make a list of them
					lines["schema"] = map[string]any{"type": "array", "minItems": 1, "items": lines["schema"]}
				}
			}
		}
	}
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

package tests_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	root "banger"
	"banger/api"
	"banger/api/wire"
	"banger/guest"
	"banger/host/unixsock"
	"banger/test/archivetest"
)

// newDaemon starts a daemon on the host in memory, with directories of its own and a
// Debian archive that it can build from, and returns its socket. A setting is the name of
// a file in its configuration.
func newDaemon(t *testing.T, settings ...string) (socket string) {
	t.Helper()
	if *host != "fake" {
		t.Skip("this is about the API, whatever VMs run on")
	}
	dir := t.TempDir()
	archive := archivetest.New(t, archivetest.Deb{Name: "tool", Version: "1.0", Fields: "Essential: yes\n"}, archivetest.Deb{Name: "apt", Version: "2.6.1"})
	if err := os.MkdirAll(filepath.Join(dir, "config/banger"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range settings {
		if err := os.WriteFile(filepath.Join(dir, "config/banger", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := os.Create(filepath.Join(dir, "config/banger/keys.gpg"))
	if err == nil {
		err = archive.Keys[0].Serialize(keys)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = keys.Close()
	config := fmt.Sprintf("mirror = %q\nsecurity_mirror = %q\n", archive.URL("debian"), archive.URL("debian-security"))
	if err := os.WriteFile(filepath.Join(dir, "config/banger/config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "bangerd"), "--ready-fd=3")
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	for _, kind := range []string{"STATE", "DATA", "CACHE", "CONFIG"} {
		cmd.Env = append(cmd.Env, "XDG_"+kind+"_HOME="+filepath.Join(dir, strings.ToLower(kind)))
	}
	if cover := os.Getenv("BANGER_COVERDIR"); cover != "" {
		cmd.Env = append(cmd.Env, "GOCOVERDIR="+cover)
	}
	cmd.ExtraFiles = []*os.File{w}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the daemon says: %s", log.String())
		}
	})
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the daemon said %q, %v: %s", line, err, log.String())
	}
	return filepath.Join(dir, "state/banger/bangerd.sock")
}

// described is a transport that holds what goes through it to the description of the
// API.
type described struct {
	*testing.T
	next     http.RoundTripper
	document map[string]any
	mux      *http.ServeMux // only to find the path of a request
	mu       sync.Mutex     // guards what follows
	compiler *jsonschema.Compiler
	seen     map[string]bool // operations that were answered well
}

func newDescribed(t *testing.T, socket string) *described {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(api.Description))
	if err != nil {
		t.Fatal(err)
	}
	d := &described{
		T: t, document: document.(map[string]any), mux: http.NewServeMux(), compiler: jsonschema.NewCompiler(), seen: map[string]bool{},
		next: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, socket) }},
	}
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("openapi.json", document); err != nil {
		t.Fatal(err)
	}
	for path, item := range d.document["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			d.mux.Handle(strings.ToUpper(method)+" "+path, http.NotFoundHandler())
		}
	}
	return d
}

// at returns what is at a place in the description, or nil. References are followed.
func (d *described) at(place ...string) (found any, pointer string) {
	found, pointer = d.document, "openapi.json#"
	for _, key := range place {
		in, _ := found.(map[string]any)
		if ref, ok := in["$ref"].(string); ok && in[key] == nil {
			to := strings.Split(strings.TrimPrefix(ref, "#/"), "/")
			found, pointer = d.at(to...)
			in, _ = found.(map[string]any)
		}
		found = in[key]
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(key)
	}
	return found, pointer
}

// holds validates a JSON value against the schema at a place.
func (d *described) holds(what string, data []byte, place ...string) {
	d.Helper()
	_, pointer := d.at(place...)
	schema, err := d.compiler.Compile(pointer)
	if err != nil {
		d.Errorf("%s: %v", what, err)
		return
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		d.Errorf("%s isn't as described: %v\n%.2000s", what, err, data)
	}
}

// RoundTrip implements http.RoundTripper.
func (d *described) RoundTrip(r *http.Request) (*http.Response, error) {
	_, pattern := d.mux.Handler(r)
	_, way, _ := strings.Cut(pattern, " ")
	method := strings.ToLower(r.Method)
	var sent []byte
	if content, _ := d.at("paths", way, method, "requestBody", "content", wire.JSONType); content != nil && r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := d.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answered(r, way, sent, resp)
	return resp, nil
}

// answered looks at an answer, which it reads, unless it goes on for as long as the
// client stays.
func (d *described) answered(r *http.Request, path string, sent []byte, resp *http.Response) {
	d.Helper()
	what := fmt.Sprintf("%s %s: %s", r.Method, r.URL, resp.Status)
	if path == "" {
		d.Errorf("%s: there is no such path in the description", what)
		return
	}
	place := []string{"paths", path, strings.ToLower(r.Method)}
	status := strconv.Itoa(resp.StatusCode)
	if resp.StatusCode >= 400 {
		status = status[:1] + "XX"
	} else {
		d.asked(r, sent, what, place)
	}
	place = append(place, "responses", status)
	response, _ := d.at(place...)
	if response == nil {
		d.Errorf("%s: the description has no such status", what)
		return
	}
	media := resp.Header.Get("Content-Type")
	content, _ := d.at(append(place, "content")...)
	kinds, _ := content.(map[string]any)
	if _, ok := kinds[media]; !ok && (media != "" || len(kinds) > 0) {
		d.Errorf("%s: it is %q, the description has %v", what, media, slices.Collect(maps.Keys(kinds)))
		return
	}
	if resp.StatusCode < 400 {
		id, _ := d.at("paths", path, strings.ToLower(r.Method), "operationId")
		d.seen[fmt.Sprint(id)] = true
	}
	schema := append(place, "content", media, "schema")
	if (media != wire.JSONType && media != wire.LinesType) || (r.URL.Query().Get("follow") != "" && strings.HasSuffix(path, "/logs")) || strings.HasSuffix(path, "/hold") {
		return
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		d.Errorf("%s: %v", what, err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	if media == wire.JSONType {
		d.holds(what, data, schema...)
		return
	}
	last := ""
	for line := range strings.Lines(string(data)) {
		if last == "result" || last == "error" {
			d.Errorf("%s: something comes after the %s: %s", what, last, line)
		}
		for _, kind := range []string{"event", "output", "result", "error"} {
			if strings.HasPrefix(line, `{"`+kind+`"`) {
				last = kind
			}
		}
		d.holds(what, []byte(line), schema...)
	}
	if last != "result" && last != "error" {
		d.Errorf("%s: it ends without a result: %s", what, data)
	}
}

// asked looks at a request that was understood.
func (d *described) asked(r *http.Request, sent []byte, what string, place []string) {
	d.Helper()
	if len(sent) > 0 {
		d.holds(what+" (the request)", sent, append(place, "requestBody", "content", wire.JSONType, "schema")...)
	}
	params, _ := d.at(append(place, "parameters")...)
	list, _ := params.([]any)
	for name := range r.URL.Query() {
		if !slices.ContainsFunc(list, func(p any) bool {
			return p.(map[string]any)["in"] == "query" && p.(map[string]any)["name"] == name
		}) {
			d.Errorf("%s: the description has no query parameter %s", what, name)
		}
	}
}

// call makes a request, and returns its answer when it has the status that is wanted.
func (d *described) call(way, body string, status int) []byte {
	d.Helper()
	method, url, _ := strings.Cut(way, " ")
	ctx, leave := context.WithTimeout(d.Context(), time.Minute)
	defer leave()
	r, err := http.NewRequestWithContext(ctx, method, "http://banger"+url, strings.NewReader(body))
	if err != nil {
		d.Fatal(err)
	}
	if strings.HasSuffix(url, "/channel") {
		for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} {
			r.Header.Set(name, value)
		}
	}
	resp, err := (&http.Client{Transport: d}).Do(r)
	if err != nil {
		d.Fatalf("%s: %v", way, err)
	}
	defer func() { _ = resp.Body.Close() }()
	var data []byte
	if resp.StatusCode != http.StatusSwitchingProtocols && !strings.HasSuffix(url, "/hold") {
		data, _ = io.ReadAll(resp.Body)
	}
	if resp.StatusCode != status {
		d.Errorf("%s %s: %s, want %d: %s", way, body, resp.Status, status, data)
	}
	return data
}

// Every route is called, and what is sent and answered is what the description says,
// errors included.
func TestDescription(t *testing.T) {
	socket := newDaemon(t)
	d := newDescribed(t, socket)
	tree, err := os.ReadFile(rootTar(t))
	if err != nil {
		t.Fatal(err)
	}
	d.call("GET /v2/version", "", 200)
	d.call("GET /v2/openapi.json", "", 200)
	d.call("GET /v2/missing", "", 200)
	d.call("GET /v2/missing?kernel=debian-13-cloud&image=debian-13", "", 200)
	d.call("GET /v2/missing?image=nosuch", "", 404)
	d.call("POST /v2/kernels", "{}", 200)
	d.call("GET /v2/kernels", "", 200)
	d.call("GET /v2/kernels/debian-12-cloud", "", 200)
	d.call("GET /v2/kernel-offers", "", 200)
	d.call("POST /v2/kernel-imports?name=mine&source=test", string(tree), 200)
	d.call("POST /v2/kernel-imports", "", 400)
	d.call("POST /v2/images?name=debian-12&source=test", string(tree), 200)
	d.call("POST /v2/images?name=debian-12", string(tree), 409)
	d.call("POST /v2/images?name=-&replace=true", "", 400)
	d.call("POST /v2/pulls", `{"ref":"127.0.0.1:1/nosuch"}`, 404)
	d.seen["PullImage"] = true // the host in memory asks no registry; its result's type is that of an import
	d.call("POST /v2/images/debian-12/tag", `{"name":"other"}`, 200)
	d.call("POST /v2/images/debian-12/tag", `{"name":"-"}`, 400)
	d.call("GET /v2/images/debian-12/history", "", 400)
	d.call("GET /v2/images/nosuch/export", "", 404)
	d.call("POST /v2/pushes", `{"image":"debian-12","ref":"localhost/x"}`, 400)
	d.call("DELETE /v2/images/other", "", 204)
	d.call("POST /v2/saves", `{"vm":"nosuch","name":"x"}`, 404)
	for _, name := range []string{"ImageHistory", "ExportImage", "PushImage", "SaveImage"} {
		d.seen[name] = true // the host in memory gives no images away: TestSharing calls these
	}
	d.call("GET /v2/images", "", 200)
	d.call("GET /v2/images/debian-12", "", 200)
	if text := d.call("POST /v2/builds", `{"name":"built","packages":["tool"]}`, 200); !bytes.Contains(text, []byte(`{"error":{"code":"unavailable"`)) {
		t.Errorf("the host in memory built an image: %s", text) // its result's type is that of an import
	}

	d.call("POST /v2/vms", `{"spec":{"name":"web","memory_mib":256},"start":true}`, 200)
	d.call("POST /v2/vms", `{"spec":{"name":"web"}}`, 409)
	d.call("POST /v2/vms", `{"spec":{"name":"-"}}`, 400)
	d.call("POST /v2/vms", `{"spec":{"nmae":"-"}}`, 400)
	d.call("POST /v2/vms", `{"spec":{"name":"`+strings.Repeat("x", 5<<20)+`"}}`, 413)
	d.call("GET /v2/vms", "", 200)
	d.call("GET /v2/vms/web", "", 200)
	d.call("GET /v2/vms/web/stats", "", 200)
	d.call("POST /v2/vms/web/exec", `{"argv":["sh","-c","cat; printf '\\377' >&2"],"stdin":"hi","timeout_ms":60000}`, 200)
	d.call("POST /v2/vms/web/exec", `{"argv":[]}`, 400)
	d.files(string(tree))
	d.commands()
	d.call("GET /v2/vms/web/logs", "", 200)
	d.call("GET /v2/vms/web/hold", "", 200)
	d.call("GET /v2/vms/web/channel", "", 101)
	d.call("PATCH /v2/vms/web", `{"vcpu":2}`, 200)
	d.call("POST /v2/vms/web/prune", "", 409)
	d.call("POST /v2/vms/web/restart", `{"timeout_ms":5000,"cold":true}`, 200)
	d.call("POST /v2/vms/web/kill", `{"signal":"STOP"}`, 200)
	d.call("POST /v2/vms/web/kill", `{"signal":"NOSUCH"}`, 400)
	d.call("POST /v2/vms/web/stop", `{"timeout_ms":5000,"force":true}`, 200)
	d.call("POST /v2/vms/web/exec", `{"argv":["true"]}`, 409)
	d.call("POST /v2/vms/web/start", `{"cold":true}`, 200)
	d.call("POST /v2/operations", `{"spec":{"name":"idle"}}`, 202)
	begun := d.call("POST /v2/operations", `{"spec":{"name":"mute"},"start":true}`, 202)
	var op root.Operation
	if err := json.Unmarshal(begun, &op); err != nil {
		t.Fatal(err)
	}
	d.call("GET /v2/operations", "", 200)
	d.call("GET /v2/operations/"+op.ID, "", 200)
	d.call("POST /v2/operations/"+op.ID+"/cancel", "", 200)
	d.call("GET /v2/operations/"+op.ID+"/events", "", 200)
	d.call("POST /v2/vms/idle/prune", "", 204)

	d.call("POST /v2/templates", `{"net":"user","memory_mib":256}`, 200)
	var templates wire.Results[root.Template]
	if err := json.Unmarshal(d.call("GET /v2/templates", "", 200), &templates); err != nil || len(templates.Results) != 1 {
		t.Fatalf("%+v, %v", templates, err)
	}
	id := templates.Results[0].ID
	d.call("GET /v2/templates/"+id[:6], "", 200)
	d.call("DELETE /v2/templates/"+id, "", 204)

	d.call("GET /v2/events", "", 200)
	d.call("POST /v2/gc", `{"dry_run":true}`, 200)
	d.call("GET /v2/space", "", 200)
	d.call("GET /v2/proxy", "", 200)
	d.call("DELETE /v2/images/debian-12", "", 409)
	d.call("DELETE /v2/kernels/debian-12-cloud", "", 409)
	for path, item := range d.document["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			url := path
			for _, noun := range []string{"vm", "image", "kernel", "template", "operation"} {
				url = strings.ReplaceAll(url, "{"+noun+"}", "nosuch")
				url = strings.ReplaceAll(url, "{command}", "nosuch")
			}
			if url == path {
				continue
			}
			body := ""
			if strings.HasSuffix(path, "/exec") || method == "post" && strings.HasSuffix(path, "/commands") {
				body = `{"argv":["true"]}`
			}
			if strings.HasSuffix(path, "/files") {
				url += "?path=/tmp"
			}
			d.call(strings.ToUpper(method)+" "+url, body, 404)
			if content, _ := d.at("paths", path, method, "requestBody", "content", wire.JSONType); content != nil {
				d.call(strings.ToUpper(method)+" "+url, `{"nosuch":1}`, 400)
			}
		}
	}
	d.call("DELETE /v2/vms/web", "", 204)
	d.call("DELETE /v2/images/debian-12", "", 204)
	d.call("DELETE /v2/kernels/debian-12-cloud", "", 204)
	d.call("POST /v2/prune", "{}", 200)
	d.call("POST /v2/stop", "", 204)
	for _, rt := range api.Routes() {
		if !d.seen[rt.Name] {
			t.Errorf("%s %s isn't called here", rt.Method, rt.Path)
		}
	}
}

// files copies a tree into the guest and out again.
func (d *described) files(tree string) {
	d.Helper()
	dir := d.TempDir() // guests in memory have this host's files
	d.call("PUT /v2/vms/web/files?path="+dir+"/made", tree, 204)
	packed := d.call("GET /v2/vms/web/files?path="+dir+"/made/.", "", 200)
	got, err := names(packed)
	want, err2 := names([]byte(tree))
	if err != nil || err2 != nil || !slices.Equal(got, want) || len(got) < 5 {
		d.Errorf("%q went in, %q came out (%v, %v)", want, got, err, err2)
	}
	d.call("PUT /v2/vms/web/files?path=made", tree, 400)
	d.call("PUT /v2/vms/web/files?path="+dir+"/made", "no tar", 400)
	d.call("PUT /v2/vms/web/files", tree, 400)
	d.call("GET /v2/vms/web/files?path="+dir+"/nosuch", "", 404)
	d.call("GET /v2/vms/web/files?path="+dir+"/made&user=root", "", 400)
}

// commands starts some and looks at what comes of them.
func (d *described) commands() {
	d.Helper()
	var cmd guest.Command
	get := func(body string) string {
		d.Helper()
		cmd = guest.Command{}
		if err := json.Unmarshal(d.call("POST /v2/vms/web/commands", body, 200), &cmd); err != nil {
			d.Fatal(err)
		}
		return "/v2/vms/web/commands/" + cmd.ID
	}
	at := get(`{"argv":["sh","-c","echo out; printf '\\377' >&2; exit 3"]}`)
	d.call("GET "+at, "", 200)
	lines := string(d.call("GET "+at+"/output?follow=true", "", 200))
	if !strings.Contains(lines, `"offset":0,"data":"out\n"}`) || !strings.Contains(lines, `{"base64":"/w=="}`) || !strings.Contains(lines, `"running":false`) || !strings.Contains(lines, `"exit":3`) {
		d.Errorf("its output is %s", lines)
	}
	if lines = string(d.call("GET "+at[:len(at)-20]+"/output?stdout=2&stderr=1", "", 200)); !strings.Contains(lines, `"offset":2,"data":"t\n"}`) || strings.Contains(lines, "base64") {
		d.Errorf("from an offset it is %s", lines)
	}
	d.call("GET "+at+"/output?stdout=5", "", 400)
	d.call("GET "+at+"/output?stderr=-1", "", 400)
	d.call("GET "+at+"/output?stderr=x", "", 400)
	d.call("POST "+at+"/signal", "", 409)
	d.call("DELETE "+at, "", 204)
	d.call("DELETE "+at, "", 404)
	get(`{"argv":["nosuchprogram"]}`)
	if cmd.Exit == nil || *cmd.Exit != 127 || !strings.Contains(cmd.Error, "nosuchprogram") {
		d.Errorf("one that can't be run is %+v", cmd)
	}
	at = get(`{"id":"0123456789abcdef0123456789abcdef","argv":["sleep","600"]}`)
	get(`{"id":"0123456789abcdef0123456789abcdef","argv":["sleep","601"]}`)
	if cmd.Argv[1] != "600" || !cmd.Running || cmd.Exit != nil {
		d.Errorf("an id that is started twice is %+v", cmd)
	}
	d.call("GET "+at+"/output", "", 200)
	d.call("DELETE "+at, "", 409)
	d.call("POST "+at+"/signal", `{"signal":"NOSUCH"}`, 400)
	d.call("POST "+at+"/signal", `{"signal":"INT"}`, 204)
	d.call("GET "+at+"/output?follow=true", "", 200)
	if all := d.call("GET /v2/vms/web/commands", "", 200); bytes.Contains(all, []byte("untar")) || !bytes.Contains(all, []byte(`"signal":"INT"`)) {
		d.Errorf("all are %s", all)
	}
	d.call("POST /v2/vms/web/commands", `{"argv":[]}`, 400)
	d.call("POST /v2/vms/web/commands", `{"id":"x","argv":["true"]}`, 400)
}

// names are those in a tar, sorted.
func names(data []byte) (names []string, err error) {
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		if name := path.Clean(h.Name); name != "." {
			names = append(names, name)
		}
	}
}

// What our own client sends is what the description says, too.
func TestDescriptionOfClient(t *testing.T) {
	d := newDescribed(t, newDaemon(t))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "proxy"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &http.Server{Handler: &httputil.ReverseProxy{Transport: d, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", "banger"
	}}}
	go func() { _ = proxy.Serve(l) }()
	defer func() { _ = proxy.Close() }()
	c := api.NewClient(func(ctx context.Context) (net.Conn, error) { return unixsock.Dial(ctx, l.Addr().String()) })
	tree, err := os.Open(rootTar(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, err := range map[string]error{
		"pull":    second(c.Kernels().PullKernel(ctx, "", false, nil)),
		"import":  second(c.Images().ImportImage(ctx, "debian-12", "", true, tree, nil)),
		"create":  second(c.VMs().CreateVM(ctx, root.Spec{Name: "web"}, true, nil)),
		"set":     second(c.VMs().SetVM(ctx, "web", root.Change{VCPU: 2})),
		"restart": second(c.VMs().RestartVM(ctx, "web", root.StopOptions{Timeout: time.Second}, nil)),
		"stop":    second(c.VMs().StopVM(ctx, "web", root.StopOptions{Force: true})),
		"start":   second(c.VMs().StartVM(ctx, "web", root.StartOptions{}, nil)),
		"kill":    second(c.VMs().KillVM(ctx, "web", "KILL")),
		"begin":   second(c.Operations().BeginCreate(ctx, root.Spec{Name: "other"}, false)),
		"freeze":  second(c.Templates().CreateTemplate(ctx, root.TemplateSpec{Net: root.NetUser}, nil)),
		"gc":      second(c.System().Collect(ctx, root.CollectOptions{DryRun: true})),
		"prune":   second(c.System().Prune(ctx, root.PruneOptions{DryRun: true})),
		"events":  c.System().Events(ctx, false, func(root.Event) {}),
		"delete":  c.VMs().DeleteVM(ctx, "web"),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !d.seen["BeginCreate"] || !d.seen["DeleteVM"] {
		t.Error("nothing went through")
	}
}

func second[T any](_ T, err error) error { return err }

package bootstrap

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
)

// workshop is a machine whose guest is the real agent, which runs other commands
// than it is told: nothing of a package may run on the host of a test.
type workshop struct {
	Machines
	configure, mounts, export string // shell commands
	shell                     string // that of the guest; empty: this host's

	spec    banger.Spec
	deleted []string
	held    chan struct{}
	server  *agent.Server
}

func (w *workshop) CreateVM(_ context.Context, spec banger.Spec, _ bool, _ banger.Progress) (banger.VM, error) {
	w.spec, w.held = spec, make(chan struct{})
	w.server = &agent.Server{Version: "test", Sessions: &session.Table{}}
	return banger.VM{ID: "0123456789ab"}, nil
}

func (w *workshop) DeleteVM(_ context.Context, ref string) error {
	w.deleted = append(w.deleted, ref)
	return nil
}

func (w *workshop) HoldVM(ctx context.Context, _ string, _ func()) error {
	<-ctx.Done()
	close(w.held)
	return nil
}

func (w *workshop) Dial(context.Context, string) (net.Conn, error) {
	near, far := net.Pipe()
	inner, agentSide := net.Pipe()
	go func() { _ = w.server.Serve(&one{agentSide}) }()
	go func() {
		defer func() { _ = far.Close() }()
		req, err := guest.ReadRequest(far)
		var exec guest.ExecRequest
		if err == nil && json.Unmarshal(req.Body, &exec) == nil && len(exec.Spec.Argv) > 0 {
			shell := "sh"
			if w.shell != "" && exec.Spec.Argv[0] == "/bin/sh" {
				shell = w.shell
			}
			exec.Spec.Argv = []string{shell, "-c", w.instead(exec.Spec.Argv)}
			req.Body, err = json.Marshal(exec)
		}
		if err != nil {
			return
		}
		hello, err := guest.AppendRequest(nil, req.Op, req.Body)
		if err != nil {
			return
		}
		go func() {
			_, _ = inner.Write(hello)
			_, _ = io.Copy(inner, far)
			_ = inner.Close()
		}()
		_, _ = io.Copy(far, inner)
	}()
	return near, nil
}

func (w *workshop) instead(argv []string) string {
	switch argv[0] {
	case "/bin/sh":
		return w.configure
	case "cat":
		return w.mounts
	case "tar":
		return w.export
	}
	return "exit 99"
}

// one is a listener with one connection.
type one struct{ conn net.Conn }

func (o *one) Accept() (net.Conn, error) {
	if o.conn == nil {
		return nil, io.EOF
	}
	c := o.conn
	o.conn = nil
	return c, nil
}
func (o *one) Close() error   { return nil }
func (o *one) Addr() net.Addr { return &net.UnixAddr{} }

// newWorkshop is one where all goes well, and exports this tar.
func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755},
		file("./usr/made-by-postinst"), file("./etc/machine-id"), file("./etc/ssh/ssh_host_rsa_key"), file("./var/lib/docker/inner"),
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return &workshop{
		configure: "echo 'Setting up tool (1.0) ...'; echo done",
		mounts:    "echo 'overlay / overlay rw 0 0'; echo '/dev/vda /var/lib/docker ext4 rw 0 0'",
		export:    "cat " + path,
	}
}

func TestBuild(t *testing.T) {
	b, _, s := builder(t)
	w := newWorkshop(t)
	b.Machines = w
	stages := map[string]bool{}
	img, err := b.BuildImage(t.Context(), recipe, func(e banger.Event) { stages[e.Stage] = true })
	if err != nil {
		t.Fatal(err)
	}
	if img.Lock == nil || nameList(*img.Lock) != "apt base-files libc6 tool" || !strings.HasPrefix(img.Source, "4 packages of Debian bookworm") {
		t.Errorf("%+v", img)
	}
	names := s.tars["debian-12"]
	for name, want := range map[string]bool{"usr/made-by-postinst": true, "etc/machine-id": true, "dev/": true, "proc/": true,
		"etc/ssh/ssh_host_rsa_key": false, "var/lib/docker/inner": false} {
		if got := slices.Contains(names, name); got != want {
			t.Errorf("%s in the image: %v, want %v", name, got, want)
		}
	}
	for _, stage := range []string{"index", "packages", "unpack", "builder", "configure", "export"} {
		if !stages[stage] {
			t.Errorf("nothing was heard of %s", stage)
		}
	}
	if len(s.images) != 1 {
		t.Errorf("images: %v", s.images)
	}
	if <-w.held; len(w.deleted) != 1 {
		t.Errorf("machines deleted: %v", w.deleted)
	}
	if !w.spec.Remove || w.spec.Net != banger.NetNone || !w.spec.NoInit {
		t.Errorf("the machine was %+v", w.spec)
	}
}

// Whatever a guest does, it is said, and neither machine nor image stays.
func TestGuestsThatFail(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*workshop)
		want  string
	}{
		"a script fails":       {func(w *workshop) { w.configure = "echo 'tool: no such user'; exit 1" }, "status 1; its last words:\ntool: no such user"},
		"it has no shell":      {func(w *workshop) { w.shell = "/nowhere/sh" }, "the guest's shell didn't start: "},
		"it paints the screen": {func(w *workshop) { w.configure = `printf 'a\033[2Jb'; exit 1` }, "a?[2Jb"},
		"no mounts":            {func(w *workshop) { w.mounts = "exit 3" }, "read the guest's mounts"},
		"too many mounts":      {func(w *workshop) { w.mounts = "head -c 2000000 /dev/zero" }, "read the guest's mounts"},
		"tar fails":            {func(w *workshop) { w.export = "echo 'no space' >&2; exit 2" }, "tar in the guest ended with status 2: no space"},
		"no tar at all":        {func(w *workshop) { w.export = "echo hello" }, "EOF"},
		"a truncated tar":      {func(w *workshop) { w.export = w.export + " | head -c 700" }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			b, _, s := builder(t)
			w := newWorkshop(t)
			c.spoil(w)
			b.Machines = w
			if _, err := b.BuildImage(t.Context(), recipe, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			if <-w.held; len(w.deleted) != 1 || len(s.images) > 0 {
				t.Errorf("deleted %v, images %v", w.deleted, s.images)
			}
		})
	}
}

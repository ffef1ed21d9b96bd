package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger"
	"banger/api"
	"banger/guest"
	"banger/host/unixsock"
	"banger/version"
)

// services is a daemon's inside, as far as the wire can tell: each method is a
// function a test may replace, and the zero answers with nothing.
type services struct {
	banger.ImageSharing
	create  func(context.Context, banger.Spec, bool, banger.Progress) (banger.VM, error)
	start   func(context.Context, string, banger.StartOptions, banger.Progress) (banger.VM, error)
	stop    func(context.Context, string, banger.StopOptions) (banger.VM, error)
	remove  func(context.Context, string) error
	vm      func(context.Context, string) (banger.VM, error)
	vms     func(context.Context) ([]banger.VM, error)
	dial    func(context.Context, string) (net.Conn, error)
	logs    func(context.Context, string, bool) (io.ReadCloser, error)
	hold    func(context.Context, string, func()) error
	imp     func(context.Context, string, string, bool, io.Reader, banger.Progress) (banger.Image, error)
	images  func(context.Context) ([]banger.Image, error)
	inspect func(context.Context, string) (banger.Image, error)
	build   func(context.Context, banger.Recipe, banger.Progress) (banger.Image, error)
	rmi     func(context.Context, string) error
	kernel  func(string) (banger.Kernel, error)
	pull    func(context.Context, string, banger.Progress) (banger.Kernel, error)
}

func (s *services) CreateVM(ctx context.Context, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
	return s.create(ctx, spec, start, p)
}
func (s *services) StartVM(ctx context.Context, ref string, opt banger.StartOptions, p banger.Progress) (banger.VM, error) {
	return s.start(ctx, ref, opt, p)
}
func (s *services) StopVM(ctx context.Context, ref string, opt banger.StopOptions) (banger.VM, error) {
	return s.stop(ctx, ref, opt)
}
func (s *services) DeleteVM(ctx context.Context, ref string) error        { return s.remove(ctx, ref) }
func (s *services) VM(ctx context.Context, ref string) (banger.VM, error) { return s.vm(ctx, ref) }
func (s *services) VMs(ctx context.Context) ([]banger.VM, error)          { return s.vms(ctx) }
func (s *services) Dial(ctx context.Context, ref string) (net.Conn, error) {
	return s.dial(ctx, ref)
}
func (s *services) Logs(ctx context.Context, ref string, follow bool) (io.ReadCloser, error) {
	return s.logs(ctx, ref, follow)
}
func (s *services) HoldVM(ctx context.Context, ref string, held func()) error {
	return s.hold(ctx, ref, held)
}
func (s *services) ImportImage(ctx context.Context, name, source string, replace bool, tar io.Reader, p banger.Progress) (banger.Image, error) {
	return s.imp(ctx, name, source, replace, tar, p)
}
func (s *services) Images(ctx context.Context) ([]banger.Image, error) { return s.images(ctx) }
func (s *services) Image(ctx context.Context, ref string) (banger.Image, error) {
	return s.inspect(ctx, ref)
}
func (s *services) PullImage(ctx context.Context, what banger.Pull, p banger.Progress) (banger.Image, error) {
	p(banger.Event{Stage: "layers", Message: what.Ref})
	if what.Credentials.Password != "secret" {
		return banger.Image{}, banger.Errorf(banger.CodeForbidden, "no login")
	}
	return banger.Image{ID: "abc", Name: what.Ref}, nil
}

func (s *services) BuildImage(ctx context.Context, r banger.Recipe, p banger.Progress) (banger.Image, error) {
	return s.build(ctx, r, p)
}
func (s *services) DeleteImage(ctx context.Context, ref string) error { return s.rmi(ctx, ref) }
func (s *services) PullKernel(ctx context.Context, name string, update bool, p banger.Progress) (banger.Kernel, error) {
	return s.pull(ctx, name+map[bool]string{true: " anew"}[update], p)
}
func (s *services) DeleteKernel(ctx context.Context, ref string) error {
	return s.rmi(ctx, "kernel "+ref)
}
func (s *services) Kernel(_ context.Context, ref string) (banger.Kernel, error) {
	return s.kernel(ref)
}
func (s *services) Kernels(context.Context) ([]banger.Kernel, error) { return nil, nil }
func (s *services) ImportKernel(ctx context.Context, name, source string, tar io.Reader, p banger.Progress) (banger.Kernel, error) {
	data, err := io.ReadAll(tar)
	if err != nil {
		return banger.Kernel{}, err
	}
	return s.pull(ctx, name+" of "+source+": "+string(data), p)
}
func (s *services) AvailableKernels(context.Context) ([]banger.KernelOffer, error) {
	return []banger.KernelOffer{{Name: "k", Behind: true}}, nil
}

// parts are the services, with a VMControl beside them.
func (s *services) parts(control banger.VMControl) banger.Parts {
	return banger.Parts{VM: struct {
		*services
		banger.VMControl
	}{s, control}, Image: s, Kernel: s}
}

// serve runs a daemon at path until end is called.
func serve(t *testing.T, path string, s *services) (end func()) {
	t.Helper()
	l, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	server := &api.Server{Services: s.parts(nil), Stop: cancel, Log: slog.New(slog.DiscardHandler)}
	go func() { done <- server.Serve(ctx, l) }()
	var once sync.Once
	end = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(end)
	return end
}

func socket(t *testing.T) string { return filepath.Join(t.TempDir(), "run", "bangerd.sock") }

func newClient(t *testing.T, s *services) *api.Client {
	t.Helper()
	path := socket(t)
	serve(t, path, s)
	return connect(path)
}

func connect(path string) *api.Client {
	return api.NewClient(func(ctx context.Context) (net.Conn, error) { return unixsock.Dial(ctx, path) })
}

var aVM = banger.VM{
	ID: "0123456789ab", State: banger.Running, Reason: "started", Boots: 2, ImageID: "i", KernelID: "k",
	Spec:    banger.Spec{Name: "web", Image: "debian-12", VCPU: 2, MemoryMiB: 512, DiskMiB: 1024, Net: banger.NetNone, Remove: true},
	Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	Exit:    &banger.Exit{Kind: banger.ExitPanic, Detail: "oops", Status: -1, Time: time.Date(2026, 1, 2, 3, 4, 5, 7, time.UTC)},
	Held:    banger.Handles{VMM: banger.Process{PID: 7, StartTime: 8, BootID: "b"}, RAMFile: "/dev/shm/x"},
}

// Every method carries its arguments there and its results back.
func TestRoundTrip(t *testing.T) {
	ctx := t.Context()
	event := banger.Event{Op: "o1", VM: "v", Stage: "disk", Message: "m", Done: 1, Total: 2, Time: aVM.Created}
	image := banger.Image{ID: "abc", Name: "a/b:c", Size: 5, Entries: 6, Source: "s", Created: aVM.Created}
	recipe := banger.Recipe{Name: "a/b:c", Suite: "bookworm", Packages: []string{"git"}, Snapshot: "http://s", Replace: true,
		Lock: &banger.Lock{Suite: "trixie", Date: aVM.Created, Packages: []banger.Package{{Name: "git", Version: "1:2", Size: 3, Auto: true}}}}
	kernel := banger.Kernel{ID: "k", Name: "debian-12-cloud", Version: "6.1", Source: "s", Created: aVM.Created}
	var got []any
	note := func(v ...any) { got = append(got, v...) }
	s := &services{
		create: func(_ context.Context, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
			note(spec, start)
			p(event)
			return aVM, nil
		},
		start: func(_ context.Context, ref string, opt banger.StartOptions, p banger.Progress) (banger.VM, error) {
			note(ref, opt)
			p(event)
			return aVM, nil
		},
		stop: func(_ context.Context, ref string, opt banger.StopOptions) (banger.VM, error) {
			note(ref, opt)
			return aVM, nil
		},
		remove:  func(_ context.Context, ref string) error { note(ref); return nil },
		vm:      func(_ context.Context, ref string) (banger.VM, error) { note(ref); return aVM, nil },
		vms:     func(context.Context) ([]banger.VM, error) { return []banger.VM{aVM}, nil },
		images:  func(context.Context) ([]banger.Image, error) { return []banger.Image{image}, nil },
		inspect: func(_ context.Context, ref string) (banger.Image, error) { note(ref); return image, nil },
		build: func(_ context.Context, r banger.Recipe, p banger.Progress) (banger.Image, error) {
			note(r)
			p(event)
			return image, nil
		},
		rmi:    func(_ context.Context, ref string) error { note(ref); return nil },
		kernel: func(ref string) (banger.Kernel, error) { note(ref); return kernel, nil },
		pull: func(_ context.Context, name string, p banger.Progress) (banger.Kernel, error) {
			note(name)
			p(event)
			return kernel, nil
		},
		imp: func(_ context.Context, name, source string, replace bool, tar io.Reader, p banger.Progress) (banger.Image, error) {
			data, err := io.ReadAll(tar)
			note(name, source, replace, string(data))
			p(event)
			return image, err
		},
	}
	c := newClient(t, s)
	var events []banger.Event
	p := func(e banger.Event) { events = append(events, e) }
	const ref = "a/b?c#d e" // must arrive as it is
	opt := banger.StopOptions{Timeout: 3 * time.Second, Force: true}
	for _, call := range []struct {
		name   string
		do     func() (any, error)
		want   any
		args   []any
		events []banger.Event
	}{
		{"create", func() (any, error) { return c.VMs().CreateVM(ctx, aVM.Spec, true, p) }, aVM, []any{aVM.Spec, true}, []banger.Event{event}},
		{"start", func() (any, error) { return c.VMs().StartVM(ctx, ref, banger.StartOptions{}, p) }, aVM, []any{ref, banger.StartOptions{}}, []banger.Event{event}},
		{"boot", func() (any, error) { return c.VMs().StartVM(ctx, ref, banger.StartOptions{Cold: true}, p) }, aVM, []any{ref, banger.StartOptions{Cold: true}}, []banger.Event{event}},
		{"stop", func() (any, error) { return c.VMs().StopVM(ctx, ref, opt) }, aVM, []any{ref, opt}, nil},
		{"delete", func() (any, error) { return nil, c.VMs().DeleteVM(ctx, ref) }, nil, []any{ref}, nil},
		{"vm", func() (any, error) { return c.VMs().VM(ctx, ref) }, aVM, []any{ref}, nil},
		{"vms", func() (any, error) { return c.VMs().VMs(ctx) }, []banger.VM{aVM}, nil, nil},
		{"images", func() (any, error) { return c.Images().Images(ctx) }, []banger.Image{image}, nil, nil},
		{"image", func() (any, error) { return c.Images().Image(ctx, ref) }, image, []any{ref}, nil},
		{"pull", func() (any, error) {
			return c.Images().PullImage(ctx, banger.Pull{Ref: "alpine", Credentials: banger.Credentials{User: "me", Password: "secret"}}, func(banger.Event) {})
		}, banger.Image{ID: "abc", Name: "alpine"}, nil, nil},
		{"build", func() (any, error) { return c.Images().BuildImage(ctx, recipe, p) }, image, []any{recipe}, []banger.Event{event}},
		{"delete image", func() (any, error) { return nil, c.Images().DeleteImage(ctx, ref) }, nil, []any{ref}, nil},
		{"import", func() (any, error) { return c.Images().ImportImage(ctx, ref, "&s", true, strings.NewReader("tar"), p) }, image, []any{ref, "&s", true, "tar"}, []banger.Event{event}},
		{"pull", func() (any, error) { return c.Kernels().PullKernel(ctx, "k", true, p) }, kernel, []any{"k anew"}, []banger.Event{event}},
		{"import kernel", func() (any, error) {
			return c.Kernels().ImportKernel(ctx, "k", "&s", strings.NewReader("tar"), p)
		}, kernel, []any{"k of &s: tar"}, []banger.Event{event}},
		{"kernel offers", func() (any, error) { return c.Kernels().AvailableKernels(ctx) }, []banger.KernelOffer{{Name: "k", Behind: true}}, nil, nil},
		{"kernel", func() (any, error) { return c.Kernels().Kernel(ctx, ref) }, kernel, []any{ref}, nil},
		{"kernels", func() (any, error) { return c.Kernels().Kernels(ctx) }, []banger.Kernel{}, nil, nil},
	} {
		t.Run(call.name, func(t *testing.T) {
			got, events = nil, nil
			answer, err := call.do()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(call.want, answer); d != "" {
				t.Errorf("answer: %s", d)
			}
			if d := cmp.Diff(call.args, got); d != "" {
				t.Errorf("arguments: %s", d)
			}
			if d := cmp.Diff(call.events, events); d != "" {
				t.Errorf("events: %s", d)
			}
		})
	}
}

// An error crosses with everything a user may see, with and without progress
// before it; one that isn't banger's own is internal.
func TestErrors(t *testing.T) {
	want := banger.Errorf(banger.CodeConflict, "name %q is taken", "web").WithHint("choose another")
	want.Op = "op7"
	s := &services{
		create: func(_ context.Context, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
			if start {
				p(banger.Event{Stage: "disk"})
			}
			return banger.VM{}, fmt.Errorf("deep: %w", want)
		},
		vm:   func(context.Context, string) (banger.VM, error) { return banger.VM{}, errors.New("a bug") },
		dial: func(context.Context, string) (net.Conn, error) { return nil, want },
		logs: func(context.Context, string, bool) (io.ReadCloser, error) { return nil, want },
	}
	c := newClient(t, s)
	check := func(err error) {
		t.Helper()
		e, ok := errors.AsType[*banger.Error](err)
		if !ok || e.Code != want.Code || e.Message != want.Message || e.Hint != want.Hint || e.Op != want.Op {
			t.Errorf("got %#v, want %#v", err, want)
		}
	}
	_, err := c.VMs().CreateVM(t.Context(), banger.Spec{}, false, nil)
	check(err)
	_, err = c.VMs().CreateVM(t.Context(), banger.Spec{}, true, nil)
	check(err)
	_, err = c.VMs().Dial(t.Context(), "x")
	check(err)
	_, err = c.VMs().Logs(t.Context(), "x", false)
	check(err)
	if _, err = c.VMs().VM(t.Context(), "x"); banger.CodeOf(err) != banger.CodeInternal || err.Error() != "a bug" {
		t.Errorf("a bug arrives as %v", err)
	}
}

// A client that leaves ends its operation.
func TestLeaving(t *testing.T) {
	begun, ended := make(chan bool), make(chan bool)
	c := newClient(t, &services{
		create: func(ctx context.Context, _ banger.Spec, _ bool, _ banger.Progress) (banger.VM, error) {
			close(begun)
			<-ctx.Done()
			close(ended)
			return banger.VM{}, ctx.Err()
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	_, err := c.VMs().CreateVM(ctx, banger.Spec{}, true, nil)
	if banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("error %v, want canceled", err)
	}
	wait(t, ended)
}

func wait(t *testing.T, c <-chan bool) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("it didn't happen")
	}
}

// Progress of an import arrives while the tar is still being sent.
func TestImportProgressWhileSending(t *testing.T) {
	c := newClient(t, &services{
		imp: func(_ context.Context, _, _ string, _ bool, tar io.Reader, p banger.Progress) (banger.Image, error) {
			if _, err := io.ReadFull(tar, make([]byte, 5)); err != nil {
				return banger.Image{}, err
			}
			p(banger.Event{Stage: "import", Done: 5})
			rest, err := io.ReadAll(tar)
			return banger.Image{Name: string(rest)}, err
		},
	})
	r, w := io.Pipe()
	go func() { _, _ = w.Write([]byte("first")) }()
	img, err := c.Images().ImportImage(t.Context(), "n", "", false, r, func(e banger.Event) {
		go func() { _, _ = w.Write([]byte("second")); _ = w.Close() }()
	})
	if err != nil || img.Name != "second" {
		t.Errorf("image %+v, %v", img, err)
	}
}

// A refused import reaches a client that would send for ever, and one whose
// source says nothing more; a source that fails is said to have failed.
func TestImportRefused(t *testing.T) {
	refusal := banger.Errorf(banger.CodeInvalid, "entry ../x is outside")
	for _, early := range []bool{true, false} {
		c := newClient(t, &services{
			imp: func(_ context.Context, _, _ string, _ bool, tar io.Reader, p banger.Progress) (banger.Image, error) {
				if !early {
					p(banger.Event{Stage: "import"})
					_, _ = io.ReadFull(tar, make([]byte, 1<<20))
				}
				return banger.Image{}, refusal
			},
		})
		_, err := c.Images().ImportImage(t.Context(), "n", "", false, endless{}, nil)
		if banger.CodeOf(err) != banger.CodeInvalid || err.Error() != refusal.Message {
			t.Errorf("endless, early %v: %v", early, err)
		}
	}
	c := newClient(t, &services{
		imp: func(context.Context, string, string, bool, io.Reader, banger.Progress) (banger.Image, error) {
			return banger.Image{}, refusal
		},
	})
	silent, _ := io.Pipe()
	if _, err := c.Images().ImportImage(t.Context(), "n", "", false, silent, nil); err == nil || err.Error() != refusal.Message {
		t.Errorf("silent source: %v", err)
	}
	c = newClient(t, &services{
		imp: func(_ context.Context, _, _ string, _ bool, tar io.Reader, _ banger.Progress) (banger.Image, error) {
			_, err := io.Copy(io.Discard, tar)
			return banger.Image{}, err
		},
	})
	broken := io.MultiReader(strings.NewReader("x"), failing{})
	if _, err := c.Images().ImportImage(t.Context(), "n", "", false, broken, nil); banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("broken source: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk on fire") }

// The console comes as it is written, whatever its bytes.
func TestLogsFollow(t *testing.T) {
	r, w := io.Pipe()
	c := newClient(t, &services{logs: func(_ context.Context, ref string, follow bool) (io.ReadCloser, error) {
		if ref != "web" || !follow {
			return nil, fmt.Errorf("asked for %q, follow %v", ref, follow)
		}
		return r, nil
	}})
	logs, err := c.VMs().Logs(t.Context(), "web", true)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	for _, text := range []string{"boot\n", "\x00\xff\x1b"} {
		go func() { _, _ = w.Write([]byte(text)) }()
		got := make([]byte, len(text))
		if _, err := io.ReadFull(logs, got); err != nil || string(got) != text {
			t.Fatalf("read %q, %v; want %q", got, err, text)
		}
	}
	_ = w.CloseWithError(errors.New("lost"))
	if _, err := io.ReadAll(logs); err == nil {
		t.Error("a log that broke off looks whole")
	}
}

// What may be repeated is repeated when the daemon dies under it; what may not
// is reported.
func TestDaemonDies(t *testing.T) {
	path := socket(t)
	var end func()
	dying := make(chan bool)
	blocked := func(ctx context.Context) error { close(dying); <-ctx.Done(); return ctx.Err() }
	start := func(s *services) { dying = make(chan bool); end = serve(t, path, s) }
	next := &services{
		vms:    func(context.Context) ([]banger.VM, error) { return []banger.VM{aVM}, nil },
		remove: func(context.Context, string) error { return banger.Errorf(banger.CodeNotFound, "no vm") },
	}
	// A dialer that waits for a daemon, as the autostart does.
	c := api.NewClient(func(ctx context.Context) (net.Conn, error) {
		for {
			if conn, err := unixsock.Dial(ctx, path); err == nil || ctx.Err() != nil {
				return conn, err
			}
			time.Sleep(time.Millisecond)
		}
	})
	replaced := make(chan bool)
	replace := func() { <-dying; end(); start(next); replaced <- true }

	start(&services{vms: func(ctx context.Context) ([]banger.VM, error) {
		<-killConn(ctx, dying)
		return nil, nil
	}})
	go replace()
	if vms, err := c.VMs().VMs(t.Context()); err != nil || len(vms) != 1 {
		t.Errorf("list: %v, %v", vms, err)
	}
	wait(t, replaced)
	end()

	start(&services{remove: func(ctx context.Context, _ string) error { <-killConn(ctx, dying); return nil }})
	go replace()
	if err := c.VMs().DeleteVM(t.Context(), "web"); err != nil {
		t.Errorf("delete, finished by the next daemon: %v", err)
	}
	wait(t, replaced)
	end()

	start(&services{create: func(ctx context.Context, _ banger.Spec, _ bool, p banger.Progress) (banger.VM, error) {
		p(banger.Event{Stage: "disk"})
		_ = blocked(ctx)
		panic(http.ErrAbortHandler)
	}})
	last := end
	go func() { <-dying; last() }()
	_, err := c.VMs().CreateVM(t.Context(), banger.Spec{}, true, nil)
	if banger.CodeOf(err) != banger.CodeUnavailable {
		t.Errorf("create: %v, want unavailable", err)
	}
}

// killConn makes a handler die as its daemon would: the connection breaks
// without an answer.
func killConn(ctx context.Context, dying chan bool) <-chan bool {
	close(dying)
	<-ctx.Done()
	panic(http.ErrAbortHandler)
}

// A daemon of another API version is refused with what to do, and can be ended.
func TestOtherVersion(t *testing.T) {
	path := socket(t)
	l, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan bool)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/version", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(version.Daemon{API: version.API + 1, Build: "9.9"})
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "{}")
		close(stopped)
	})
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	defer func() { _ = srv.Close() }()
	_, err = connect(path).VMs().VMs(t.Context())
	e, ok := errors.AsType[*banger.Error](err)
	if !ok || !strings.Contains(e.Message, "9.9") || !strings.Contains(e.Hint, "banger daemon stop") {
		t.Errorf("error %#v", err)
	}
	conn, err := unixsock.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := api.Stop(t.Context(), conn); err != nil {
		t.Error(err)
	}
	wait(t, stopped)

	c := connect(path)
	c.Replace = func(context.Context, version.Daemon) (bool, error) { return false, io.ErrClosedPipe }
	if _, err := c.VMs().VMs(t.Context()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a daemon that couldn't be replaced: %v", err)
	}
	met := []int{}
	c.Replace = func(_ context.Context, d version.Daemon) (bool, error) {
		met = append(met, d.API)
		if d.API == version.API {
			return false, nil
		}
		_ = srv.Close()
		serve(t, path, &services{vms: func(context.Context) ([]banger.VM, error) { return nil, nil }})
		return true, nil
	}
	if _, err := c.VMs().VMs(t.Context()); err != nil || !slices.Equal(met, []int{version.API + 1, version.API}) {
		t.Errorf("replaced: %v, met %v", err, met)
	}
}

// Only the daemon's own user may use it; who can't be told is nobody.
func TestStranger(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // no peer credentials here
	if err != nil {
		t.Fatal(err)
	}
	s := &services{vms: func(context.Context) ([]banger.VM, error) { t.Error("served"); return nil, nil }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- (&api.Server{Services: s.parts(nil), Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	base := "http://" + l.Addr().String()
	for path, want := range map[string]int{"/v1/version": 200, "/v2/version": 200, "/v2/vms": 403, "/v2/none": 404, "/v1/vms": 404} {
		resp, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, resp.StatusCode, want)
		}
	}
}

// Requests are bounded, and what isn't understood is refused.
func TestBadRequests(t *testing.T) {
	path := socket(t)
	serve(t, path, &services{create: func(context.Context, banger.Spec, bool, banger.Progress) (banger.VM, error) {
		t.Error("served")
		return banger.VM{}, nil
	}})
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, path) }}}
	for name, body := range map[string]io.Reader{
		"unknown field": strings.NewReader(`{"spec":{"nmae":"x"}}`),
		"no JSON":       strings.NewReader(`{`),
		"two values":    strings.NewReader(`{} {}`),
		"too large":     io.MultiReader(strings.NewReader(`{"spec":{"name":"`), io.LimitReader(endless{}, 5<<20)),
	} {
		resp, err := c.Post("http://banger/v2/vms", "application/json", body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var answer struct{ Error *banger.Error }
		err = json.NewDecoder(resp.Body).Decode(&answer)
		_ = resp.Body.Close()
		want := 400
		if name == "too large" {
			want = 413
		}
		if err != nil || resp.StatusCode != want || answer.Error == nil || answer.Error.Code != banger.CodeInvalid {
			t.Errorf("%s: %s, %+v, %v", name, resp.Status, answer.Error, err)
		}
	}
}

// A command that can't be is refused before its VM is looked at.
func TestBadExec(t *testing.T) {
	path := socket(t)
	serve(t, path, &services{})
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, path) }}}
	for body, want := range map[string]string{
		`{}`:                             "argv is empty",
		`{"argv":[]}`:                    "argv is empty",
		`{"argv":["x"],"timeout_ms":-1}`: "timeout_ms is -1",
		`{"argv":["x"],"timeout_ms":9223372036854775807}`: "timeout_ms is 9223372036854775807",
	} {
		resp, err := c.Post("http://banger/v2/vms/web/exec", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 400 || !strings.Contains(string(answer), want) {
			t.Errorf("%s: %s, %s, %v", body, resp.Status, answer, err)
		}
	}
}

// Who listens and isn't the daemon is no reason to hang, nor for a riddle.
func TestNoDaemonOfOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })}
	go func() { _ = s.Serve(l) }()
	defer func() { _ = s.Close() }()
	c := api.NewClient(func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) })
	if _, err := c.VMs().VMs(t.Context()); err == nil || !strings.Contains(err.Error(), "answered 418 I'm a teapot without saying why") {
		t.Error(err)
	}
}

// A directory in which others could put another socket in the place of ours is refused.
func TestOpenDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	l, err := api.Listen(filepath.Join(dir, "bangerd.sock"))
	if err == nil {
		_ = l.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "must belong to you alone") {
		t.Error(err)
	}
}

// A hold goes on at the next daemon and ends with its context.
func TestHold(t *testing.T) {
	path := socket(t)
	held := make(chan bool)
	ended, taken, told := make(chan bool), make(chan bool), make(chan bool)
	s := &services{
		hold: func(ctx context.Context, _ string, told func()) error {
			held <- true
			<-taken
			told()
			<-ctx.Done()
			ended <- true
			return nil
		},
	}
	end := serve(t, path, s)
	c := connect(path)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan bool)
	go func() { _ = c.VMs().HoldVM(ctx, "web", func() { told <- true }); close(done) }()
	wait(t, held)
	select {
	case <-told:
		t.Error("the client was told before the lease was held")
	case <-time.After(50 * time.Millisecond): // the claim is that nothing happens
	}
	taken <- true
	wait(t, told)
	go end()
	wait(t, ended)
	end()
	serve(t, path, s)
	wait(t, held)
	taken <- true
	wait(t, told)
	cancel()
	wait(t, ended)
	wait(t, done)
}

// What a daemon leaves to the next one is no failure: its client asks that one.
func TestEnding(t *testing.T) {
	for _, told := range []bool{false, true} { // before an event was, or after
		path := socket(t)
		var end func()
		ended := make(chan bool)
		end = serve(t, path, &services{start: func(_ context.Context, _ string, _ banger.StartOptions, p banger.Progress) (banger.VM, error) {
			if told {
				p(banger.Event{Stage: "agent"})
			}
			go func() { end(); close(ended) }()
			return banger.VM{}, banger.Errorf(banger.CodeUnavailable, "%w", banger.ErrEnding)
		}})
		next := make(chan bool, 1)
		c := connect(path)
		started := make(chan error, 1)
		go func() {
			vm, err := c.VMs().StartVM(t.Context(), "web", banger.StartOptions{}, nil)
			if err == nil && vm.ID != aVM.ID {
				err = fmt.Errorf("got %+v", vm)
			}
			started <- err
		}()
		<-ended
		serve(t, path, &services{start: func(context.Context, string, banger.StartOptions, banger.Progress) (banger.VM, error) {
			next <- true
			return aVM, nil
		}})
		if err := <-started; err != nil {
			t.Errorf("told %v: %v", told, err)
		}
	}
}

// A VM that goes is held by nobody, and the client is told.
func TestHoldOfAVMThatGoes(t *testing.T) {
	path := socket(t)
	serve(t, path, &services{hold: func(context.Context, string, func()) error {
		return banger.Errorf(banger.CodeNotFound, "vm web is being deleted")
	}})
	err := connect(path).VMs().HoldVM(t.Context(), "web", func() { t.Error("it is said to be held") })
	if banger.CodeOf(err) != banger.CodeNotFound {
		t.Error(err)
	}
}

// The path of a socket may be longer than the kernel's sun_path.
func TestLongPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("long", 30), "bangerd.sock")
	serve(t, path, &services{vms: func(context.Context) ([]banger.VM, error) { return []banger.VM{aVM}, nil }})
	if vms, err := connect(path).VMs().VMs(t.Context()); err != nil || len(vms) != 1 {
		t.Errorf("%v, %v", vms, err)
	}
}

func FuzzBytes(f *testing.F) {
	f.Add([]byte("text"))
	f.Add([]byte{0xff, 0, '"', '\\'})
	f.Fuzz(func(t *testing.T, in []byte) {
		data, err := json.Marshal(guest.Bytes(in))
		if err != nil {
			t.Fatal(err)
		}
		var out guest.Bytes
		if err := json.Unmarshal(data, &out); err != nil || !bytes.Equal(in, out) {
			t.Errorf("%q → %s → %q, %v", in, data, out, err)
		}
	})
}

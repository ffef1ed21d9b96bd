package api_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger"
	"banger/api"
	"banger/host/unixsock"
)

// controlled notes what it is asked for.
type controlled struct {
	got  []any
	vm   banger.VM
	st   banger.Stats
	list []banger.Found
	tell []banger.Event
	err  error
}

func (c *controlled) KillVM(_ context.Context, ref, signal string) (banger.VM, error) {
	c.got = []any{ref, signal}
	return c.vm, c.err
}

func (c *controlled) RestartVM(_ context.Context, ref string, opt banger.StopOptions, p banger.Progress) (banger.VM, error) {
	c.got = []any{ref, opt}
	p(c.tell[0])
	return c.vm, c.err
}

func (c *controlled) SetVM(_ context.Context, ref string, change banger.Change) (banger.VM, error) {
	c.got = []any{ref, change}
	return c.vm, c.err
}

func (c *controlled) PruneVM(_ context.Context, ref string) error {
	c.got = []any{ref}
	return c.err
}

func (c *controlled) StatsVM(_ context.Context, ref string) (banger.Stats, error) {
	c.got = []any{ref}
	return c.st, c.err
}

func (c *controlled) Events(ctx context.Context, follow bool, each func(banger.Event)) error {
	c.got = []any{follow}
	for _, e := range c.tell {
		each(e)
	}
	if follow {
		<-ctx.Done()
	}
	return c.err
}

func (c *controlled) Collect(_ context.Context, opt banger.CollectOptions) ([]banger.Found, error) {
	c.got = []any{opt}
	return c.list, c.err
}

func (c *controlled) Prune(_ context.Context, opt banger.PruneOptions) ([]banger.Pruned, error) {
	c.got = []any{opt}
	return []banger.Pruned{{Kind: "kernel", ID: "n", Name: "v", Bytes: 5, Removed: true, Detail: "d"}}, c.err
}

func (c *controlled) Missing(_ context.Context, spec banger.Spec) ([]banger.Missing, error) {
	c.got = []any{spec}
	return lacking, c.err
}

func (c *controlled) Proxy(context.Context) (banger.Proxy, error) {
	c.got = []any{}
	return browsers, c.err
}

var browsers = banger.Proxy{Port: 8788, Problem: "p", Hint: "h"}

var lacking = []banger.Missing{{Kind: "image", Name: "n", Source: "http://s", Download: 1, Disk: 2, Seconds: 3}}

func (c *controlled) Space(context.Context) ([]banger.Space, error) {
	c.got = []any{}
	return []banger.Space{{Kind: "image", Name: "n", VM: "v", Bytes: 5, Unused: true}}, c.err
}

func TestControlCrosses(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &controlled{
		vm: aVM, tell: []banger.Event{{Op: "o1", Name: "web", Stage: "running", Time: at}, {Op: "o2", Stage: "deleted", Time: at}},
		st:   banger.Stats{ID: "v", Name: "web", State: banger.Running, Time: at, Usage: banger.Usage{CPUMS: 5, RSS: 6, PSS: 7, Shared: 8, Private: 9}, Disk: 10},
		list: []banger.Found{{Claim: banger.Orphaned, Kind: "shim", Name: "7", VM: "v", Detail: "d", Removed: true}},
	}
	path := filepath.Join(t.TempDir(), "run", "bangerd.sock")
	l, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		parts := (&services{}).parts(s)
		parts.Whole = s
		done <- (&api.Server{Services: parts, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c := api.NewClient(func(ctx context.Context) (net.Conn, error) { return unixsock.Dial(ctx, path) })
	sys := c.System()
	const ref = "a/b?c#d e"
	opt, change := banger.StopOptions{Timeout: time.Second, Force: true}, banger.Change{Name: "n", VCPU: 1, MemoryMiB: 2, DiskMiB: 3}
	wants := banger.Spec{Kernel: ref, Isolation: banger.ByProcess, Hypervisor: "h", VCPU: 2, MemoryMiB: 300, Net: banger.NetNone}
	var events []banger.Event
	collect := banger.CollectOptions{DryRun: true, Disks: true}
	for name, call := range map[string]struct {
		do         func() (any, error)
		want, args any
	}{
		"kill":    {func() (any, error) { return c.VMs().KillVM(ctx, ref, "TERM") }, s.vm, []any{ref, "TERM"}},
		"restart": {func() (any, error) { return c.VMs().RestartVM(ctx, ref, opt, nil) }, s.vm, []any{ref, opt}},
		"set":     {func() (any, error) { return c.VMs().SetVM(ctx, ref, change) }, s.vm, []any{ref, change}},
		"prune":   {func() (any, error) { return nil, c.VMs().PruneVM(ctx, ref) }, nil, []any{ref}},
		"stats":   {func() (any, error) { return c.VMs().StatsVM(ctx, ref) }, s.st, []any{ref}},
		"collect": {func() (any, error) { return sys.Collect(ctx, collect) }, s.list, []any{collect}},
		"prune all": {func() (any, error) { return sys.Prune(ctx, banger.PruneOptions{DryRun: true, All: true}) },
			[]banger.Pruned{{Kind: "kernel", ID: "n", Name: "v", Bytes: 5, Removed: true, Detail: "d"}}, []any{banger.PruneOptions{DryRun: true, All: true}}},
		"space":    {func() (any, error) { return sys.Space(ctx) }, []banger.Space{{Kind: "image", Name: "n", VM: "v", Bytes: 5, Unused: true}}, []any{}},
		"proxy":    {func() (any, error) { return sys.Proxy(ctx) }, browsers, []any{}},
		"missing":  {func() (any, error) { return sys.Missing(ctx, banger.Spec{Image: ref}) }, lacking, []any{banger.Spec{Image: ref}}},
		"missing ": {func() (any, error) { return sys.Missing(ctx, wants) }, lacking, []any{wants}},
		"events": {func() (any, error) {
			err := sys.Events(ctx, false, func(e banger.Event) { events = append(events, e) })
			return events, err
		}, s.tell, []any{false}},
	} {
		s.err = nil
		got, err := call.do()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(call.want, got); d != "" {
			t.Errorf("%s: answer: %s", name, d)
		}
		if d := cmp.Diff(call.args, any(s.got)); d != "" {
			t.Errorf("%s: arguments: %s", name, d)
		}
		s.err = banger.Errorf(banger.CodeConflict, "no")
		if _, err := call.do(); banger.CodeOf(err) != banger.CodeConflict {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.err = nil
	following, leave := context.WithCancel(ctx)
	if err := sys.Events(following, true, func(e banger.Event) {
		if e.Op == "o2" {
			leave()
		}
	}); err != nil {
		t.Error(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, path)
	}}}).Post("http://banger/v2/vms/x/kill", "", nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if d := cmp.Diff(any(s.got), any([]any{"x", "KILL"})); d != "" {
		t.Errorf("kill without a body: %s", d)
	}
}

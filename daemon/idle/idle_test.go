package idle_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"banger"
	"banger/daemon/catalog"
	"banger/daemon/engine"
	"banger/daemon/idle"
	"banger/guest"
	"banger/test/fake"
)

// world is the engine on the host in memory with a watcher before it, in a
// bubble whose time passes by itself.
type world struct {
	*idle.Watcher
	host     *fake.Host
	cpu      atomic.Int64 // milliseconds that each VMM used
	sessions atomic.Pointer[[]guest.Session]
	deaf     atomic.Bool  // the agents don't tell of their commands
	streams  atomic.Int64 // that clients of an earlier daemon hold
}

const after = time.Hour

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{host: fake.NewHost()}
	w.sessions.Store(&[]guest.Session{})
	w.host.Agent = w.serve
	life := w.host.Live(nil)
	store := life.Store(fake.NewStore())
	c := &catalog.Catalog{Store: store, ImageFiles: life.Images(), KernelFiles: life.Kernels(), Default: "cloud", Now: time.Now}
	_, err := c.ImportImage(t.Context(), "debian", "test", false, strings.NewReader("a tar"), nil)
	if err == nil {
		_, err = c.PullKernel(t.Context(), "", false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	ids := atomic.Int64{}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	e := &engine.Engine{
		Host: engine.Host{
			Catalog: c, Hypervisors: map[string]banger.Hypervisor{"fake": life.Hypervisor()}, Disks: map[string]banger.Disks{"file": life.Disks()},
			Dir: t.TempDir(), RAMDir: "/ram",
		},
		Store: store, Processes: life.Processes(), BootID: w.host.BootID(),
		Defaults: engine.Defaults{Hypervisor: "fake", Image: "debian", Kernel: "cloud", VCPU: 1, MemoryMiB: 256, DiskMiB: 1024},
		Now:      time.Now, NewID: func() string { return fmt.Sprintf("%012x", ids.Add(1)) }, Log: log,
	}
	if err := e.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Watcher = idle.New(e, e)
	w.After, w.Now, w.Log = after, time.Now, log
	w.Usage = func(banger.Process) (banger.Usage, error) { return banger.Usage{CPUMS: w.cpu.Load()}, nil }
	if _, err := e.CreateVM(t.Context(), banger.Spec{Name: "it"}, true, nil); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.Run(ctx) }()
	t.Cleanup(func() { // goroutines of the bubble must end with it
		end()
		<-ended
		life.Kill()
		e.Close()
		w.host.Reboot()
	})
	return w
}

// serve is the agents: they tell of the commands in w.sessions.
func (w *world) serve(g *fake.Guest) {
	defer g.Close()
	req, err := guest.ReadRequest(g)
	if err != nil || w.deaf.Load() && req.Op == guest.OpSessions {
		return
	}
	var body any
	switch req.Op {
	case guest.OpConfigure:
		body = guest.Ready{Agent: "test"}
	case guest.OpHealth:
		body = guest.Health{Time: time.Now(), Streams: int(w.streams.Load())}
	case guest.OpSessions:
		body = *w.sessions.Load()
	}
	if raw, err := guest.AppendResponse(nil, guest.Version, body, nil); err == nil {
		_, _ = g.Write(raw)
	}
	if req.Op == guest.OpShutdown {
		g.Poweroff()
	}
}

// runs waits, in the bubble's time, and says whether the VM still runs then.
func (w *world) runs(t *testing.T, within time.Duration) bool {
	t.Helper()
	time.Sleep(within)
	synctest.Wait()
	vm, err := w.VM(t.Context(), "it")
	if err != nil {
		t.Fatal(err)
	}
	if vm.State == banger.Stopped && !strings.HasPrefix(vm.Reason, "nobody used it for 1h0m0s; ") {
		t.Errorf("the reason is %q", vm.Reason)
	}
	return vm.State == banger.Running
}

// stopped expects that the VM is stopped after the time that must pass, and a
// look more, but not before.
func (w *world) stopped(t *testing.T) {
	t.Helper()
	if !w.runs(t, after-2*time.Minute) {
		t.Error("stopped early")
	}
	if w.runs(t, 4*time.Minute) {
		t.Error("not stopped")
	}
}

func bubble(t *testing.T, name string, test func(*testing.T, *world)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
	})
}

func TestUse(t *testing.T) {
	bubble(t, "nobody", func(t *testing.T, w *world) {
		w.stopped(t)
		if _, err := w.StartVM(t.Context(), "it", banger.StartOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		w.stopped(t) // a new run counts anew
	})
	bubble(t, "a client", func(t *testing.T, w *world) {
		conn, err := w.Dial(t.Context(), "it")
		if err != nil {
			t.Fatal(err)
		}
		if !w.runs(t, 3*after) {
			t.Error("stopped under a client")
		}
		_ = conn.Close()
		w.stopped(t)
	})
	bubble(t, "clients now and then", func(t *testing.T, w *world) {
		for range 5 {
			if !w.runs(t, after-2*time.Minute) {
				t.Error("stopped though it was used")
			}
			conn, err := w.Dial(t.Context(), "it")
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		}
		w.stopped(t)
	})
	bubble(t, "a reader of its console", func(t *testing.T, w *world) {
		log, err := w.Logs(t.Context(), "it", false)
		if err != nil {
			t.Fatal(err)
		}
		if !w.runs(t, 3*after) {
			t.Error("stopped under a reader")
		}
		_ = log.Close()
		w.stopped(t)
	})
	bubble(t, "a holder", func(t *testing.T, w *world) {
		ctx, leave := context.WithCancel(t.Context())
		go func() { _ = w.HoldVM(ctx, "it", nil) }()
		if !w.runs(t, 3*after) {
			t.Error("stopped under a holder")
		}
		leave()
		synctest.Wait()
		w.stopped(t)
	})
	bubble(t, "a load", func(t *testing.T, w *world) {
		for range 180 {
			w.cpu.Add(20_000) // a third of a CPU
			if !w.runs(t, time.Minute) {
				t.Fatal("stopped under load")
			}
		}
		for range 50 {
			w.cpu.Add(2_000) // what an idle guest takes
			time.Sleep(time.Minute)
		}
		if w.runs(t, 12*time.Minute) {
			t.Error("an idle guest counts as busy")
		}
	})
	bubble(t, "a command nobody follows", func(t *testing.T, w *world) {
		w.sessions.Store(&[]guest.Session{{PID: 1, Exit: &guest.ExitStatus{}}, {PID: 2}})
		if !w.runs(t, 3*after) {
			t.Error("stopped under a command")
		}
		w.sessions.Store(&[]guest.Session{{PID: 1, Exit: &guest.ExitStatus{}}, {PID: 2, Exit: &guest.ExitStatus{}}})
		if w.runs(t, after+2*time.Minute) {
			t.Error("not stopped when its commands had ended")
		}
	})
	bubble(t, "a client of the daemon before this one", func(t *testing.T, w *world) {
		w.streams.Store(1)
		if !w.runs(t, 3*after) {
			t.Error("stopped under a client that an earlier daemon handed a stream")
		}
		w.streams.Store(0)
		if w.runs(t, after+2*time.Minute) {
			t.Error("not stopped when the client had left")
		}
	})
	bubble(t, "an agent that can't be asked", func(t *testing.T, w *world) {
		w.deaf.Store(true)
		if !w.runs(t, 3*after) {
			t.Error("stopped unasked")
		}
	})
}

// Without the setting nothing is stopped.
func TestOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		off := idle.New(w.VMService, w.Leases)
		off.Usage, off.Now, off.Log = w.Usage, w.Now, w.Log
		w.After = 0
		ctx, end := context.WithTimeout(t.Context(), 100*after)
		defer end()
		off.Run(ctx)
		if vm, err := w.VM(t.Context(), "it"); err != nil || vm.State != banger.Running {
			t.Errorf("%+v, %v", vm, err)
		}
	})
}

// A VM may say how long it may be unused, whatever others do.
func TestOwnIdleStop(t *testing.T) {
	bubble(t, "", func(t *testing.T, w *world) {
		ms := int64(10 * after / time.Millisecond)
		if _, err := w.VMService.(*engine.Engine).SetVM(t.Context(), "it", banger.Change{IdleStopMS: &ms}); err != nil {
			t.Fatal(err)
		}
		if !w.runs(t, 9*after) {
			t.Error("stopped early")
		}
		time.Sleep(2 * after)
		synctest.Wait()
		if vm, err := w.VM(t.Context(), "it"); err != nil || vm.State != banger.Stopped || !strings.HasPrefix(vm.Reason, "nobody used it for 10h0m0s") {
			t.Errorf("%+v, %v", vm, err)
		}
	})
}

// When a time to live is over, the VM is stopped, whoever uses it, or deleted with Remove.
func TestTimeToLive(t *testing.T) {
	bubble(t, "", func(t *testing.T, w *world) {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		go func() { _ = w.HoldVM(ctx, "it", nil) }()
		ms := int64(90 * time.Second / time.Millisecond)
		kept, err := w.CreateVM(t.Context(), banger.Spec{Name: "kept", TTLMS: ms}, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		gone, err := w.CreateVM(t.Context(), banger.Spec{Name: "gone", TTLMS: ms, Remove: true}, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = w.HoldVM(ctx, "gone", nil) }()
		w.Kick()
		if conn, err := w.Dial(t.Context(), "kept"); err != nil {
			t.Fatal(err)
		} else {
			defer func() { _ = conn.Close() }()
		}
		time.Sleep(80 * time.Second)
		synctest.Wait()
		for _, name := range []string{"kept", "gone"} {
			if vm, err := w.VM(t.Context(), name); err != nil || vm.State != banger.Running {
				t.Errorf("early: %+v, %v", vm, err)
			}
		}
		more := 2 * ms
		if _, err := w.VMService.(*engine.Engine).SetVM(t.Context(), "it", banger.Change{TTLMS: &more}); err != nil {
			t.Fatal(err)
		}
		w.Kick()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if vm, err := w.VM(t.Context(), kept.ID); err != nil || vm.State != banger.Stopped || !strings.HasPrefix(vm.Reason, "its time to live, 1m30s, is over") {
			t.Errorf("%+v, %v", vm, err)
		}
		if vm, err := w.VM(t.Context(), gone.ID); banger.CodeOf(err) != banger.CodeNotFound {
			t.Errorf("%+v, %v", vm, err)
		}
		if vm, err := w.VM(t.Context(), "it"); err != nil || vm.State != banger.Running {
			t.Errorf("one with more time: %+v, %v", vm, err)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if vm, err := w.VM(t.Context(), "it"); err != nil || vm.State != banger.Stopped {
			t.Errorf("later: %+v, %v", vm, err)
		}
	})
}

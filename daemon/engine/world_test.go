package engine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"banger"
	"banger/daemon/catalog"
	"banger/daemon/engine"
	"banger/daemon/sqlite"
	"banger/daemon/template"
	"banger/test/fake"
)

var deep = flag.Bool("deep", false, "search everywhere, not at a sample where there is too much: some minutes")

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // thousands of worlds, each soon forgotten
	os.Exit(m.Run())
}

// world is a host with a state directory, on which daemons live and die.
type world struct {
	t     testing.TB
	host  *fake.Host
	store banger.Store
	dir   string
	ids   atomic.Int64
	old   banger.VM // runs through all trials

	sabotage sabotage
	pauses   pauses

	defaults engine.Defaults
	now      func() time.Time
	log      io.Writer
	plain    bool               // daemons that may not touch the host's network, as those that aren't root
	clocks   bool               // set guests' clocks: beside all else, so that points come in no certain order
	warm     bool               // daemons have templates
	told     func(banger.Event) // of what happens to VMs; nil: nobody is
	bubble   bool               // time passes by itself, whenever all wait
	daemons  []*daemon
}

// sabotage is for the tests of the test: what is between a daemon and its world.
type sabotage struct {
	store func(*world, banger.Store) banger.Store
	host  func(*world, banger.Hypervisor) banger.Hypervisor
	disks func(*world, banger.Disks) banger.Disks
	net   func(*world, banger.Networks) banger.Networks
	lease func(banger.Leases) banger.Leases
}

// inBubble runs a test in a world whose time passes by itself, whenever all that
// lives in it waits: minutes cost nothing.
func inBubble(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.bubble = true
		// As a daemon has them, but for the times that a test can't wait.
		w.defaults.Retry, w.defaults.Stop, w.defaults.Boot = 0, 0, 0
		defer w.end()
		test(t, w)
	})
}

// end ends all that lives: a bubble lasts as long as anything in it.
func (w *world) end() {
	for _, d := range w.daemons {
		d.kill()
	}
	w.host.Reboot()
}

// newWorld keeps its records in memory, onDisk in a real database.
func newWorld(t testing.TB) *world {
	t.Helper()
	return begin(t, fake.NewStore(), tempDir(t))
}

// tempDir is in memory where there is such a place: thousands of trials sync
// their files, and no power is cut here.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "banger-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func onDisk(t testing.TB) *world {
	t.Helper()
	dir := tempDir(t)
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "banger.db"), sqlite.Unsafe)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return begin(t, store, dir)
}

func defaults() engine.Defaults {
	return engine.Defaults{
		Hypervisor: "fake", Disk: "fake", Net: banger.NetBridge, Image: "debian", Kernel: "cloud", VCPU: 1, MemoryMiB: 256, DiskMiB: 1024,
		Retry: time.Millisecond, Stop: 5 * time.Second, Boot: 5 * time.Second, Lease: time.Hour,
	}
}

func begin(t testing.TB, store banger.Store, dir string) *world {
	t.Helper()
	w := &world{t: t, host: fake.NewHost(), store: store, dir: dir, now: time.Now, log: io.Discard, defaults: defaults()}
	w.host.Pause = w.pause
	d := w.open(nil)
	if _, err := d.ImportImage(t.Context(), "debian", "test", false, strings.NewReader("a tar"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.PullKernel(t.Context(), "", false, nil); err != nil {
		t.Fatal(err)
	}
	d.kill()
	return w
}

// daemon is one engine with the life it lives.
type daemon struct {
	*engine.Engine
	*catalog.Catalog
	banger.Leases
	life  *fake.Life
	host  *fake.Host
	w     *world
	ctx   context.Context // of what clients ask for; ends with the daemon, however it ends
	leave context.CancelFunc
	over  sync.Once
}

// open starts a daemon; it returns when its recovery is over, or its life.
func (w *world) open(fate func(vm, point string) fake.Fate) *daemon {
	w.t.Helper()
	d := w.daemon(fate)
	if err := d.do(d.recover); err != nil && err != errDead {
		w.t.Fatalf("open: %v", err)
	}
	return d
}

// recover is what a daemon does before it serves.
func (d *daemon) recover() error {
	if s, ok := d.Templates.(warmth); ok {
		if err := s.Open(context.Background()); err != nil {
			return err
		}
	}
	if err := d.Sweep(context.Background()); err != nil && !errors.Is(err, fake.ErrInjected) {
		return err
	}
	return d.Open(d.ctx)
}

// daemon is one that hasn't been opened yet.
func (w *world) daemon(fate func(vm, point string) fake.Fate) *daemon {
	life := w.host.LiveOf(fate)
	store, hv := banger.Store(life.Store(w.store)), banger.Hypervisor(life.Hypervisor())
	disks, networks := banger.Disks(life.Disks()), banger.Networks(life.Networks())
	if w.sabotage.store != nil {
		store = w.sabotage.store(w, store)
	}
	if w.sabotage.host != nil {
		hv = w.sabotage.host(w, hv)
	}
	if _, ok := hv.(banger.Publisher); !ok {
		hv = publishing{hv, life.Hypervisor()}
	}
	if w.sabotage.disks != nil {
		disks = w.sabotage.disks(w, disks)
	}
	if w.sabotage.net != nil {
		networks = w.sabotage.net(w, networks)
	}
	c := &catalog.Catalog{Store: store, ImageFiles: life.Images(), KernelFiles: life.Kernels(), Default: w.defaults.Kernel, Now: time.Now}
	e := &engine.Engine{
		Host: engine.Host{
			Catalog:     c,
			Hypervisors: map[string]banger.Hypervisor{"fake": hv},
			Disks:       map[string]banger.Disks{"fake": disks},
			Networks:    map[banger.NetMode]banger.Networks{banger.NetBridge: networks},
			Dir:         w.dir, RAMDir: "/ram", Ports: life.Ports(),
		},
		Store: store, Processes: life.Processes(), BootID: w.host.BootID(), Defaults: w.defaults,
		Now: func() time.Time { return w.now() }, NewID: func() string { return fmt.Sprintf("%012x", w.ids.Add(1)) },
		Log: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	e.HookFiles(life.Step)
	e.Journal = w.told
	if w.plain {
		e.Host.Networks = nil
	}
	if !w.clocks {
		e.LeaveClocks()
	}
	if w.warm {
		e.Templates = warmth{&template.Store{
			Dir: filepath.Join(w.dir, "templates"), Hypervisors: e.Hypervisors, NewID: e.NewID, Now: time.Now, Log: e.Log,
		}}
	}
	d := &daemon{Engine: e, Catalog: c, Leases: e, life: life, host: w.host, w: w}
	if w.sabotage.lease != nil {
		d.Leases = w.sabotage.lease(e)
	}
	d.ctx, d.leave = context.WithCancel(context.Background())
	w.daemons = append(w.daemons, d)
	return d
}

// HoldVM is the engine's, or a saboteur's.
func (d *daemon) HoldVM(ctx context.Context, ref string, held func()) error {
	return d.Leases.HoldVM(ctx, ref, held)
}

var errDead = fmt.Errorf("the daemon died")

// do runs one call and returns its error, or errDead when the daemon died of it.
func (d *daemon) do(call func() error) error {
	result := make(chan error, 1)
	go func() { result <- call() }()
	select {
	case err := <-result:
		select {
		case <-d.life.Dead():
			return errDead // whatever it would have said, nobody heard it
		default:
			return err
		}
	case <-d.life.Dead():
		return errDead
	}
}

// call does a verb. Its daemon is this one for good: a call that was too late for
// a dead daemon must not reach the next one, which the test's variable names then.
func (d *daemon) call(v verb) error {
	return d.do(func() error { return v.call(d.ctx, d) })
}

// until waits for a VM to be as wanted, or for the daemon's end.
func (d *daemon) until(ref string, wanted func(banger.VM, error) bool) error {
	return d.w.wait(d.ctx, d, func() string {
		vm, err := d.VM(context.Background(), ref)
		if wanted(vm, err) {
			return ""
		}
		return fmt.Sprintf("vm %s was last seen %+v (%v)", ref, vm, err)
	})
}

// runs is wanted of a VM that was started so often.
func runs(boots int) func(banger.VM, error) bool {
	return func(vm banger.VM, err error) bool {
		return err == nil && vm.State == banger.Running && vm.Boots == boots
	}
}

func stopped(vm banger.VM, err error) bool { return err == nil && vm.State == banger.Stopped }

func deleted(_ banger.VM, err error) bool { return banger.CodeOf(err) == banger.CodeNotFound }

// wait returns once there is nothing more to say against it, or ctx or the daemon
// has ended. In a bubble it gives up after a day, else after 20 s.
func (w *world) wait(ctx context.Context, d *daemon, against func() string) error {
	patience, between := 20*time.Second, 100*time.Microsecond
	if w.bubble {
		patience, between = 24*time.Hour, time.Second
	}
	if w.bubble {
		time.Sleep(time.Nanosecond) // until all else waits
	}
	for end := time.Now().Add(patience); ; {
		reason := against()
		if reason == "" {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited in vain: %s", reason)
		}
		select {
		case <-d.life.Dead():
			return errDead
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(between):
		}
		if w.bubble {
			between = min(2*between, 5*time.Minute)
		}
	}
}

// kill ends the daemon with -9 and waits until nothing of it moves.
func (d *daemon) kill() {
	d.life.Kill()
	d.over.Do(func() {
		d.leave()
		d.Close()
	})
}

// terminate ends the daemon as SIGTERM does: what clients wait for is given up,
// and gets ten seconds for that.
func (d *daemon) terminate(called <-chan error) (err error, answered bool) {
	d.leave()
	select {
	case err, answered = <-called:
	case <-d.life.Dead():
	case <-time.After(10 * time.Second):
	}
	d.over.Do(d.Close)
	d.life.Kill()
	return err, answered
}

// unsettled says what is in flight or waits to be tried again, or which VM is
// taken for running and isn't; empty: nothing.
func (w *world) unsettled(d *daemon) string {
	plans, err := w.store.Plans(context.Background())
	if err != nil || len(plans) > 0 {
		return fmt.Sprintf("never settled: plans %+v, %v\n%v", plans, err, w.host)
	}
	vms, _ := d.VMs(context.Background())
	for _, vm := range vms {
		if vm.State != banger.Stopped && (vm.State != banger.Running || !w.host.Is(vm.Held.VMM)) {
			return fmt.Sprintf("never settled: %+v\n%v", vm, w.host)
		}
	}
	return ""
}

// settle waits until all is at rest and says what isn't.
func (w *world) settle(d *daemon) []string {
	if err := w.wait(context.Background(), d, func() string { return w.unsettled(d) }); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// settled waits until all is at rest.
func (w *world) settled(d *daemon) {
	w.t.Helper()
	if bad := w.settle(d); bad != nil {
		w.t.Fatal(bad[0])
	}
}

// check holds the world to the promise: no resource without an owner, no owner
// without its resources, records and memory agree, no stranger harmed.
func (w *world) check(d *daemon) []string {
	var bad []string
	wrong := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	vms, _ := d.VMs(context.Background())
	stored, err := w.store.VMs(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	if plans, _ := w.store.Plans(context.Background()); len(plans) != 0 {
		wrong("plans in flight: %+v", plans)
	}
	if len(vms) != len(stored) {
		wrong("the engine has %d VMs, the store %d", len(vms), len(stored))
	}
	owned := w.host.Owned()
	dirs, addresses := map[string]bool{}, map[string]bool{}
	entries, _ := os.ReadDir(filepath.Join(w.dir, "vms"))
	for _, e := range entries {
		dirs[e.Name()] = true
	}
	for _, vm := range vms {
		if !dirs[vm.ID] {
			wrong("vm %s has no directory", vm.ID)
		}
		disk := slices.IndexFunc(owned[vm.ID], func(s string) bool { return strings.HasPrefix(s, "disk#") })
		if disk < 0 {
			wrong("%s vm %s has no disk", vm.State, vm.ID)
		}
		rest := slices.DeleteFunc(slices.Clone(owned[vm.ID]), func(s string) bool { return strings.HasPrefix(s, "disk#") })
		bridged := vm.Spec.Net == banger.NetBridge
		switch got := strings.Join(rest, " "); {
		case vm.State == banger.Running && got != needs(vm):
			wrong("running vm %s has %q, not %q", vm.ID, got, needs(vm))
		case vm.State == banger.Stopped && got != "":
			wrong("stopped vm %s holds %q", vm.ID, got)
		case vm.State != banger.Running && vm.State != banger.Stopped:
			wrong("vm %s is %s", vm.ID, vm.State)
		case vm.State == banger.Stopped && !vm.Held.Empty():
			wrong("stopped vm %s claims %+v", vm.ID, vm.Held)
		case bridged && vm.Net.Address == "" || addresses[vm.Net.Address]:
			wrong("vm %s has the address %q, which isn't its alone", vm.ID, vm.Net.Address)
		case vm.State == banger.Running && (bridged && vm.Held.Tap == "" || vm.Held.DMDev == "" || vm.Held.COWLoop == "" || vm.Held.BaseLoop == ""):
			wrong("running vm %s claims %+v: not all it has", vm.ID, vm.Held)
		case vm.State == banger.Running && !w.host.Is(vm.Held.VMM):
			wrong("running vm %s claims %+v, which isn't there", vm.ID, vm.Held.VMM)
		}
		addresses[vm.Net.Address] = bridged
		delete(owned, vm.ID)
		delete(dirs, vm.ID)
	}
	for _, id := range slices.Sorted(maps.Keys(owned)) {
		wrong("nobody owns %s: %v", id, owned[id])
	}
	for _, id := range slices.Sorted(maps.Keys(dirs)) {
		wrong("nobody owns the directory %s", id)
	}
	for _, crime := range w.host.Crimes() {
		wrong("%s", crime)
	}
	return bad
}

// publishing is a hypervisor, sabotaged or not, that publishes ports.
type publishing struct {
	banger.Hypervisor
	banger.Publisher
}

// needs lists what a running VM has.
func needs(vm banger.VM) string {
	all := []string{"dm", "loop", "ram", "shim", "tap", "vmm"}
	for _, p := range vm.Spec.Ports {
		all = append(all, "port "+p.String())
	}
	slices.Sort(all)
	return strings.Join(slices.DeleteFunc(all, func(what string) bool {
		return what == "tap" && vm.Spec.Net != banger.NetBridge ||
			what == "ram" && vm.Launch != nil && vm.Launch.Template != ""
	}), " ")
}

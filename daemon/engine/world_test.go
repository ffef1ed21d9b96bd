package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger"
	"banger/catalog"
	"banger/engine"
	"banger/fake"
	"banger/sqlite"
)

// world is a host with a state directory, on which daemons live and die.
type world struct {
	t     testing.TB
	host  *fake.Host
	store banger.Store
	dir   string
	ids   atomic.Int64
	old   banger.VM // runs through all trials

	// Saboteurs, for the tests of the test.
	sabotageStore func(banger.Store) banger.Store
	sabotageHost  func(*fake.Host, banger.Hypervisor) banger.Hypervisor
	sabotageDisks func(*fake.Host, banger.Disks) banger.Disks
	sabotageNet   func(*fake.Host, banger.Networks) banger.Networks

	defaults engine.Defaults
	now      func() time.Time
	plain    bool // daemons that may not touch the host's network, as those that aren't root
	clocks   bool // set guests' clocks: beside all else, so that points come in no certain order
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
	dir := t.TempDir()
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "banger.db"), sqlite.Unsafe)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return begin(t, store, dir)
}

func begin(t testing.TB, store banger.Store, dir string) *world {
	t.Helper()
	w := &world{t: t, host: fake.NewHost(), store: store, dir: dir, now: time.Now}
	w.defaults = engine.Defaults{
		Hypervisor: "fake", Disk: "fake", Net: banger.NetBridge, Image: "debian", Kernel: "cloud", VCPU: 1, MemoryMiB: 256, DiskMiB: 1024,
		Retry: time.Millisecond, Stop: 5 * time.Second, Boot: 5 * time.Second, Lease: time.Hour,
	}
	d := w.open(nil)
	if _, err := d.ImportImage(t.Context(), "debian", "test", false, strings.NewReader("a tar"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.PullKernel(t.Context(), "", nil); err != nil {
		t.Fatal(err)
	}
	d.kill()
	return w
}

// daemon is one engine with the life it lives.
type daemon struct {
	engine.Control
	*catalog.Catalog
	life *fake.Life
	host *fake.Host
}

// open starts a daemon; it returns when its recovery is over, or its life.
func (w *world) open(fate func(string) fake.Fate) *daemon {
	life := w.host.Live(fate)
	store := banger.Store(life.Store(w.store))
	if w.sabotageStore != nil {
		store = w.sabotageStore(store)
	}
	hv := banger.Hypervisor(life.Hypervisor())
	if w.sabotageHost != nil {
		hv = w.sabotageHost(w.host, hv)
	}
	disks, networks := banger.Disks(life.Disks()), banger.Networks(life.Networks())
	if w.sabotageDisks != nil {
		disks = w.sabotageDisks(w.host, disks)
	}
	if w.sabotageNet != nil {
		networks = w.sabotageNet(w.host, networks)
	}
	c := &catalog.Catalog{Store: store, ImageFiles: life.Images(), KernelFiles: life.Kernels(), Kernel: w.defaults.Kernel, Now: time.Now}
	e := &engine.Engine{
		Store: store, Catalog: c,
		Hypervisors: map[string]banger.Hypervisor{"fake": hv}, Host: engine.Drivers{
			Disks:    map[string]banger.Disks{"fake": disks},
			Networks: map[banger.NetMode]banger.Networks{banger.NetBridge: networks},
		}, Processes: life.Processes(),
		Dir: w.dir, RAMDir: "/ram", BootID: w.host.BootID(), Defaults: w.defaults,
		Now: func() time.Time { return w.now() }, NewID: func() string { return fmt.Sprintf("%012x", w.ids.Add(1)) },
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	e.HookFiles(life.Step)
	if w.plain {
		e.Host.Networks = nil
	}
	if !w.clocks {
		e.LeaveClocks()
	}
	d := &daemon{engine.Control{Engine: e}, c, life, w.host}
	if err := d.do(func() error {
		if err := c.Sweep(context.Background()); err != nil && !errors.Is(err, fake.ErrInjected) {
			return err
		}
		return e.Open(context.Background())
	}); err != nil && err != errDead {
		w.t.Fatalf("open: %v", err)
	}
	return d
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
	return d.do(func() error { return v.call(context.Background(), d) })
}

// until waits for a VM to be as wanted, or for the daemon's death.
func (d *daemon) until(ref string, wanted func(banger.VM) bool) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		vm, err := d.VM(context.Background(), ref)
		if err == nil && wanted(vm) {
			return nil
		}
		select {
		case <-d.life.Dead():
			return errDead
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("vm %s: waited in vain, last seen %+v (%v)", ref, vm, err)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// kill ends the daemon with -9 and waits until nothing of it moves.
func (d *daemon) kill() {
	d.life.Kill()
	d.Close()
}

// settled waits until no operation is in flight or waiting to be tried again,
// no reboot is due, and no VM is taken for running that isn't.
func (w *world) settled(d *daemon) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		ops, err := w.store.Ops(context.Background())
		if err != nil {
			w.t.Fatal(err)
		}
		vms, _ := d.VMs(context.Background())
		if len(ops) == 0 && !slices.ContainsFunc(vms, func(vm banger.VM) bool {
			switch vm.State {
			case banger.Stopped:
				return vm.Exit != nil && vm.Exit.Kind == banger.ExitReboot
			case banger.Running:
				return !w.host.Is(vm.Held.VMM)
			}
			return true
		}) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("never settled: operations %+v\nVMs %+v\n%v", ops, vms, w.host)
		}
		time.Sleep(100 * time.Microsecond)
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
	if ops, _ := w.store.Ops(context.Background()); len(ops) != 0 {
		wrong("operations in flight: %+v", ops)
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
		switch got := strings.Join(rest, " "); {
		case vm.State == banger.Running && got != "dm loop ram shim tap vmm":
			wrong("running vm %s has %q", vm.ID, got)
		case vm.State == banger.Stopped && got != "":
			wrong("stopped vm %s holds %q", vm.ID, got)
		case vm.State != banger.Running && vm.State != banger.Stopped:
			wrong("vm %s is %s", vm.ID, vm.State)
		case vm.State == banger.Stopped && !vm.Held.Empty():
			wrong("stopped vm %s claims %+v", vm.ID, vm.Held)
		case vm.Net.Address == "" || addresses[vm.Net.Address]:
			wrong("vm %s has the address %q, which isn't its alone", vm.ID, vm.Net.Address)
		case vm.State == banger.Running && (vm.Held.Tap == "" || vm.Held.DMDev == "" || vm.Held.COWLoop == "" || vm.Held.BaseLoop == ""):
			wrong("running vm %s claims %+v: not all it has", vm.ID, vm.Held)
		case vm.State == banger.Running && !w.host.Is(vm.Held.VMM):
			wrong("running vm %s claims %+v, which isn't there", vm.ID, vm.Held.VMM)
		}
		addresses[vm.Net.Address] = true
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

package operation_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger"
	"banger/daemon/catalog"
	"banger/daemon/engine"
	"banger/daemon/operation"
	"banger/test/fake"
)

// world is a host in memory whose daemons are the real engine with a Table.
type world struct {
	t     *testing.T
	host  *fake.Host
	store *fake.Store
	dir   string
	ids   atomic.Int64
}

type daemon struct {
	*engine.Engine
	*operation.Table
	life *fake.Life
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, host: fake.NewHost(), store: fake.NewStore(), dir: t.TempDir()}
	c := w.catalog(w.host.Live(nil))
	if _, err := c.ImportImage(t.Context(), "debian", "test", false, strings.NewReader("a tar"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PullKernel(t.Context(), "", false, nil); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) catalog(life *fake.Life) *catalog.Catalog {
	return &catalog.Catalog{
		Store: life.Store(w.store), ImageFiles: life.Images(), KernelFiles: life.Kernels(), Default: "cloud", Now: time.Now,
	}
}

// open starts a daemon as its wiring does.
func (w *world) open() *daemon {
	w.t.Helper()
	life := w.host.Live(nil)
	store := life.Store(w.store)
	newID := func() string { return fmt.Sprintf("%012x", w.ids.Add(1)) }
	e := &engine.Engine{
		Host: engine.Host{
			Catalog: w.catalog(life), Hypervisors: map[string]banger.Hypervisor{"fake": life.Hypervisor()}, Disks: map[string]banger.Disks{"file": life.Disks()},
			Dir: w.dir, RAMDir: "/ram",
		},
		Store: store, Processes: life.Processes(), BootID: w.host.BootID(),
		Defaults: engine.Defaults{
			Hypervisor: "fake", Image: "debian", Kernel: "cloud", VCPU: 1, MemoryMiB: 256, DiskMiB: 1024, Boot: time.Hour,
		},
		Now: time.Now, NewID: newID, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	t := &operation.Table{Creator: e, NewID: newID, Now: time.Now}
	plans, err := store.Plans(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	t.Recall(plans)
	if err := e.Open(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return &daemon{e, t, life}
}

// kill ends a daemon with -9.
func (d *daemon) kill() {
	d.life.Kill()
	d.Engine.Close()
}

func (d *daemon) begin(t *testing.T, name string) banger.Operation {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	op, err := d.BeginCreate(ctx, banger.Spec{Name: name}, true)
	leave() // the client is gone
	if err != nil || op.ID == "" {
		t.Fatalf("begin: %+v, %v", op, err)
	}
	return op
}

// booting waits until an operation's guest is asked who it is.
func (d *daemon) booting(t *testing.T, op banger.Operation, asked <-chan string) {
	t.Helper()
	over := make(chan banger.Operation, 1)
	go func() {
		op, _ := d.FollowOperation(t.Context(), op.ID, nil)
		over <- op
	}()
	select {
	case <-asked:
	case op := <-over:
		t.Fatalf("it is over before it began: %+v", op)
	}
}

func (w *world) nothingLeft(d *daemon, but ...string) {
	w.t.Helper()
	vms, err := d.VMs(w.t.Context())
	if err != nil || len(vms) != len(but) {
		w.t.Errorf("VMs %+v, %v", vms, err)
	}
	for id := range w.host.Owned() {
		if !slices.Contains(but, id) {
			w.t.Errorf("left on the host:\n%v", w.host)
		}
	}
}

// silent makes the guests' agents wait for release before they answer, and says
// when one is asked.
func (w *world) silent() (asked chan string, release func()) {
	asked, gate := make(chan string, 1024), make(chan struct{})
	w.host.Agent = func(g *fake.Guest) {
		asked <- g.ID()
		<-gate
		g.Serve()
	}
	return asked, func() { close(gate) }
}

func stages(events []banger.Event) string {
	var s []string
	for _, e := range events {
		s = append(s, e.Stage)
	}
	return strings.Join(s, " ")
}

func TestClientMayGo(t *testing.T) {
	w := newWorld(t)
	asked, release := w.silent()
	d := w.open()
	op := d.begin(t, "web")
	if op.Status != banger.OperationRunning || op.VM == "" || op.Name != "web" {
		t.Errorf("begun: %+v", op)
	}
	d.booting(t, op, asked)
	// Several may follow, from the first event on, and one may come late.
	var events [2][]banger.Event
	over := make(chan banger.Operation, 2)
	follow := func(i int, id string) {
		op, err := d.FollowOperation(t.Context(), id, func(e banger.Event) { events[i] = append(events[i], e) })
		if err != nil {
			t.Error(err)
		}
		over <- op
	}
	go follow(0, op.ID)
	if now, err := d.Operation(t.Context(), op.ID[:len(op.ID)-1]); err != nil || now.Status != banger.OperationRunning || now.Stage != "agent" {
		t.Errorf("while it runs: %+v, %v", now, err)
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	if _, err := d.FollowOperation(left, op.ID, nil); banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("a follower that left: %v", err)
	}
	release()
	done := <-over
	go follow(1, op.ID)
	if late := <-over; late != done || done.Status != banger.OperationDone || done.Name != "web" || done.Ended.IsZero() {
		t.Errorf("%+v, later %+v", done, late)
	}
	for i := range events {
		if got := stages(events[i]); got != "spec directory disk attach network vmm agent" || events[i][0].Op != op.ID {
			t.Errorf("follower %d saw %q", i, got)
		}
	}
	vm, err := d.VM(t.Context(), "web")
	if err != nil || vm.State != banger.Running || vm.MadeBy != op.ID || vm.ID != done.VM {
		t.Errorf("%+v, %v", vm, err)
	}
	if _, err := d.CancelOperation(t.Context(), op.ID); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("canceled when done: %v", err)
	}
	// The next daemon knows it by its VM, until that goes.
	d.kill()
	d = w.open()
	defer d.kill()
	again, err := d.FollowOperation(t.Context(), op.ID, nil)
	if err != nil || again.Status != banger.OperationDone || again.VM != vm.ID {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
	if err := d.DeleteVM(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Operation(t.Context(), op.ID); banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("after its VM was deleted: %v", err)
	}
	w.nothingLeft(d)
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	asked, release := w.silent()
	defer release()
	d := w.open()
	defer d.kill()
	op := d.begin(t, "web")
	d.booting(t, op, asked)
	got, err := d.CancelOperation(t.Context(), op.ID)
	if err != nil || got.Status != banger.OperationCanceled {
		t.Errorf("%+v, %v", got, err)
	}
	if again, err := d.CancelOperation(t.Context(), op.ID); err != nil || again != got {
		t.Errorf("again: %+v, %v", again, err)
	}
	w.nothingLeft(d)
	// A deletion of the VM is one too.
	op = d.begin(t, "web")
	d.booting(t, op, asked)
	if err := d.DeleteVM(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	if got, err := d.FollowOperation(t.Context(), op.ID, nil); err != nil || got.Status != banger.OperationCanceled {
		t.Errorf("deleted: %+v, %v", got, err)
	}
	w.nothingLeft(d)
	if list, _ := d.Operations(t.Context()); len(list) != 2 {
		t.Errorf("%+v", list)
	}
}

func TestFailures(t *testing.T) {
	w := newWorld(t)
	d := w.open()
	defer d.kill()
	_, err := d.BeginCreate(t.Context(), banger.Spec{VCPU: 1000}, true)
	if banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("a spec that can't be: %v", err)
	}
	w.host.Agent = func(g *fake.Guest) { g.Poweroff() }
	op := d.begin(t, "web")
	got, err := d.FollowOperation(t.Context(), op.ID, nil)
	if err != nil || got.Status != banger.OperationFailed || got.Error == nil || got.Error.Op != op.ID {
		t.Errorf("a guest that powers off: %+v, %v", got, err)
	}
	if list, _ := d.Operations(t.Context()); len(list) != 1 || list[0].ID != op.ID {
		t.Errorf("what never began is listed: %+v", list)
	}
	w.nothingLeft(d)
	if _, err := d.Operation(t.Context(), "0123456789ab"); banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("one that never was: %v", err)
	}
}

// A daemon that dies, or ends, takes back what it was making, and the next one
// says so.
func TestDaemonEnds(t *testing.T) {
	w := newWorld(t)
	asked, release := w.silent()
	defer release()
	d := w.open()
	op := d.begin(t, "web")
	d.booting(t, op, asked)
	d.kill()
	d = w.open()
	got, err := d.FollowOperation(t.Context(), op.ID, nil)
	if err != nil || got.Status != banger.OperationFailed || !strings.Contains(got.Error.Message, "daemon ended") {
		t.Errorf("after kill -9: %+v, %v", got, err)
	}
	w.nothingLeft(d)
	op = d.begin(t, "web")
	d.booting(t, op, asked)
	d.Table.Close()
	if got, err := d.Operation(t.Context(), op.ID); err != nil || got.Status != banger.OperationCanceled {
		t.Errorf("after an orderly end: %+v, %v", got, err)
	}
	w.nothingLeft(d)
	if _, err := d.BeginCreate(t.Context(), banger.Spec{}, true); banger.CodeOf(err) != banger.CodeUnavailable {
		t.Errorf("begun in an ending daemon: %v", err)
	}
	d.kill()
}

// What is remembered is bounded, and what runs is never forgotten.
func TestBounded(t *testing.T) {
	w := newWorld(t)
	d := w.open()
	defer d.kill()
	running := w.host.Agent
	asked, release := w.silent()
	slow := d.begin(t, "slow")
	d.booting(t, slow, asked)
	w.host.Agent = running
	for range operation.Kept + 10 {
		op, err := d.BeginCreate(t.Context(), banger.Spec{}, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.FollowOperation(t.Context(), op.ID, nil); err != nil {
			t.Fatal(err)
		}
	}
	list, _ := d.Operations(t.Context())
	if len(list) > operation.Kept+2 || list[0].ID != slow.ID {
		t.Errorf("%d are kept, the first is %+v", len(list), list[0])
	}
	release()
	if got, err := d.FollowOperation(t.Context(), slow.ID, nil); err != nil || got.Status != banger.OperationDone {
		t.Errorf("%+v, %v", got, err)
	}
}

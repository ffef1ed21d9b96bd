package engine

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
)

// registry is all VMs there are.
type registry struct {
	mu     sync.Mutex         // guards what is below, and what records say it guards
	vms    map[string]*record // by id
	closed bool
}

// record is what the engine remembers of one VM. What is in it was committed
// to the store first.
type record struct {
	lock chan struct{} // holds one token while an operation has the VM

	// Guarded by registry.mu.
	vm     banger.VM
	op     *banger.Op         // in flight; nil: none
	held   banger.Handles     // what it holds on the host: the cache, the only truth while we live
	doubt  bool               // a commit failed: the store may hold more than vm and op say
	gone   bool               // deleted: whoever waited for the lock finds nothing
	cancel context.CancelFunc // gives up the build-up in progress; nil: none
	boots  []time.Time        // reboots of late, to end a loop of them

	holders int         // clients that hold the lease
	lease   *time.Timer // deletes the VM when it fires
	retry   *time.Timer // settles the VM again when it fires
	watched int         // the Boots number somebody waits for; 0: none
}

func newRecord(vm banger.VM) *record {
	return &record{vm: vm, held: vm.Held, lock: make(chan struct{}, 1)}
}

// disarm stops the record's timers. registry.mu is held.
func (r *record) disarm() {
	for _, t := range []*time.Timer{r.lease, r.retry} {
		if t != nil {
			t.Stop()
		}
	}
}

// acquire takes the VM for one operation, waiting for the one before it.
func (g *registry) acquire(ctx context.Context, r *record) error {
	select {
	case r.lock <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	g.mu.Lock()
	gone := r.gone
	g.mu.Unlock()
	if gone {
		<-r.lock
		return banger.Errorf(banger.CodeNotFound, "vm %s was deleted", r.vm.ID)
	}
	return nil
}

// VMs returns all VMs, oldest first.
func (e *Engine) VMs(context.Context) ([]banger.VM, error) { return e.all(), nil }

func (g *registry) all() []banger.VM {
	g.mu.Lock()
	list := make([]banger.VM, 0, len(g.vms))
	for _, r := range g.vms {
		list = append(list, r.seen())
	}
	g.mu.Unlock()
	slices.SortFunc(list, func(a, b banger.VM) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return list
}

// VM returns one VM.
func (e *Engine) VM(_ context.Context, ref string) (banger.VM, error) {
	r, err := e.find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	return e.seen(r), nil
}

func (g *registry) seen(r *record) banger.VM {
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.seen()
}

// seen is the VM as the outside sees it. registry.mu is held.
func (r *record) seen() banger.VM {
	vm := r.vm
	vm.Held = r.held
	if vm.Exit != nil {
		exit := *vm.Exit
		vm.Exit = &exit
	}
	return vm
}

// find resolves a ref as banger.FindVM does.
func (g *registry) find(ref string) (*record, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.vms[ref]; r != nil {
		return r, nil
	}
	vm, err := banger.FindVM(ref, func(yield func(*banger.VM) bool) {
		for _, r := range g.vms {
			if !yield(&r.vm) {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return g.vms[vm.ID], nil
}

// Dial opens one stream to the agent of a running VM.
func (e *Engine) Dial(ctx context.Context, ref string) (net.Conn, error) {
	r, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	vm := e.seen(r)
	if vm.State != banger.Running {
		return nil, notRunning(vm)
	}
	hv, err := e.hypervisor(vm)
	if err != nil {
		return nil, err
	}
	conn, err := hv.Dial(ctx, e.machine(vm))
	if err != nil {
		if now := e.seen(r); now.State != banger.Running {
			return nil, notRunning(now)
		}
		return nil, surface("", "reach the agent of "+vm.Spec.Name, err)
	}
	return conn, nil
}

func notRunning(vm banger.VM) *banger.Error {
	err := banger.Errorf(banger.CodeNotRunning, "vm %s is %s", vm.Spec.Name, vm.State)
	if vm.Reason != "" {
		err = banger.Errorf(banger.CodeNotRunning, "vm %s is %s: %s", vm.Spec.Name, vm.State, vm.Reason)
	}
	if vm.State == banger.Stopped {
		return err.WithHint("banger vm start %s", vm.Spec.Name)
	}
	return err
}

// mayReboot counts a reboot and reports whether it is within bounds: a guest
// that does nothing but reboot would keep the host busy for ever.
func (g *registry) mayReboot(r *record, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.boots = slices.DeleteFunc(append(r.boots, now), func(t time.Time) bool { return now.Sub(t) > rebootSpan })
	return len(r.boots) <= rebootLimit
}

// unwatch forgets that somebody waits for the end of a run.
func (g *registry) unwatch(r *record, boots int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.watched == boots {
		r.watched = 0
	}
}

// Package fleet keeps all VMs, in memory and in the store: their locks, what each holds on
// its host, their leases, and when a failed recovery is tried again.
//
// It knows nothing of how things are done to a VM. It owns one file in each VM's directory.
package fleet

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/daemon/engine/plan"
)

// Fleet is all VMs. Its exported fields are set before Open.
type Fleet struct {
	Store   banger.Store
	BootID  string // the host's; handles of another boot aren't used
	Lease   time.Duration
	Retry   time.Duration // the first pause before a VM is settled again
	Now     func() time.Time
	NewID   func() string
	VMDir   func(id string) string // a VM's own directory
	Log     *slog.Logger
	Journal func(banger.Event)                       // called with what happens; may be nil
	Files   func(name string, do func() error) error // does each effect on files
	Settle  func(context.Context, *Record)           // brings a VM to rest
	Expire  func(context.Context, *Turn) error       // deletes a VM that nobody needs

	life
	table
}

// table is what is known. mu guards it, and what records say it guards.
type table struct {
	mu     sync.Mutex
	vms    map[string]*Record // by id
	naming sync.Mutex         // held while names change in store and memory; taken before mu
}

// Record is what is known of one VM. It is committed to the store first.
type Record struct {
	id   string    // the VM's, for ever
	lock plan.Lock // held by the turn that works on the VM

	// Guarded by table.mu.
	vm      banger.VM
	plan    *banger.Plan       // the present plan; nil: none
	refused error              // why nothing is done to the VM: this build doesn't know its plan
	held    banger.Handles     // what it holds on the host; while we live, this is true
	doubt   bool               // a commit failed: the store may have it all the same
	gone    bool               // deleted, while others waited for the lock
	cancel  context.CancelFunc // interrupts the latest creation or start; nil: there was none
	reboots []time.Time        // the latest ones, to end a loop of reboots
	watched int                // the Boots number of the run whose end is waited for; 0: none
	holders int                // clients that hold the lease
	lease   *time.Timer        // deletes the VM when it fires
	retry   *time.Timer        // settles the VM again when it fires
	pauses  plan.Pauses        // between settlings, and why it isn't at rest
}

// New returns the record of a new VM. Others see it once it was committed.
func New(vm banger.VM) *Record {
	return &Record{id: vm.ID, vm: vm, held: vm.Held, lock: make(plan.Lock, 1)}
}

// Open reads the records and settles every VM. It returns when each was tried once, or when
// time is up. steps has the known steps of each kind of plan. Unknown plans are kept, and
// nothing is done to their VMs.
func (f *Fleet) Open(ctx context.Context, steps map[banger.PlanKind][]string) error {
	f.begin(ctx)
	vms, err := f.Store.VMs(ctx)
	if err != nil {
		return err
	}
	plans, err := f.Store.Plans(ctx)
	if err != nil {
		return err
	}
	f.vms = make(map[string]*Record, len(vms))
	for _, vm := range vms {
		f.vms[vm.ID] = New(vm)
	}
	for _, p := range plans {
		refused := plan.Known(p, steps)
		if refused != nil {
			f.Log.Error("a plan is refused, and kept", "op", p.ID, "subjects", p.Subjects, "error", refused, "hint", banger.AsError(refused).Hint)
		}
		for _, id := range p.Subjects {
			if r := f.vms[id]; r != nil {
				r.plan, r.refused = &p, refused
			}
		}
	}
	var rest, planned []*Record
	for _, id := range slices.Sorted(maps.Keys(f.vms)) {
		r := f.vms[id]
		if r.plan != nil || r.vm.State != banger.Stopped {
			f.recall(r)
		}
		if r.plan == nil {
			rest = append(rest, r)
		} else {
			planned = append(planned, r)
		}
	}
	f.settleAll(ctx, append(rest, planned...)) // VMs with plans last: they may take long
	return nil
}

const (
	settlers = 8                // how many VMs Open settles at a time
	openTime = 10 * time.Second // after this, Open returns and settling goes on
)

func (f *Fleet) settleAll(ctx context.Context, records []*Record) {
	tried := make(chan struct{})
	f.Go(func(ctx context.Context) {
		defer close(tried)
		var wg sync.WaitGroup
		defer wg.Wait()
		slots := make(chan struct{}, settlers)
		for _, r := range records {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				f.Settle(ctx, r)
			})
		}
	})
	select {
	case <-tried:
	case <-ctx.Done():
	case <-time.After(openTime):
	}
}

// All returns all VMs, oldest first.
func (f *Fleet) All() []banger.VM {
	f.mu.Lock()
	list := make([]banger.VM, 0, len(f.vms))
	for _, r := range f.vms {
		list = append(list, r.seen())
	}
	f.mu.Unlock()
	slices.SortFunc(list, func(a, b banger.VM) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return list
}

// Find resolves a ref as banger.FindVM does.
func (f *Fleet) Find(ref string) (*Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	vm, err := banger.FindVM(ref, func(yield func(*banger.VM) bool) {
		for _, r := range f.vms {
			if !yield(&r.vm) {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return f.vms[vm.ID], nil
}

// Seen is the VM as clients see it.
func (f *Fleet) Seen(r *Record) banger.VM {
	f.mu.Lock()
	defer f.mu.Unlock()
	return r.seen()
}

func (r *Record) seen() banger.VM {
	vm := r.vm
	vm.Held = r.held
	if why := cmp.Or(r.refused, r.pauses.Why); why != nil {
		vm.Reason = strings.TrimPrefix(vm.Reason+"; "+why.Error(), "; ")
	}
	return vm
}

// Idle reports whether nobody works on a VM.
func (f *Fleet) Idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.vms {
		if len(r.lock) > 0 {
			return false
		}
	}
	return true
}

// Later settles the VM again after a pause, longer each time. It logs why, but only once if
// the error stays the same.
func (f *Fleet) Later(r *Record, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.gone || r.refused != nil || f.ctx.Err() != nil {
		return
	}
	pause, news := r.pauses.Next(err, f.Retry)
	if news {
		f.Log.Error("settling a VM failed; it will be tried again", "vm", r.id, "error", err, "hint", banger.AsError(err).Hint)
	}
	if r.retry != nil {
		r.retry.Stop()
	}
	r.retry = f.after(pause, func(ctx context.Context) { f.Settle(ctx, r) })
}

// MayReboot counts a reboot. It is false if there were more than most within span: a guest
// that reboots all the time would keep the host busy for ever.
func (f *Fleet) MayReboot(r *Record, most int, span time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.Now()
	r.reboots = slices.DeleteFunc(append(r.reboots, now), func(t time.Time) bool { return now.Sub(t) > span })
	return len(r.reboots) <= most
}

// Watch makes the caller the one who waits for the end of a VM's run. due is false if
// somebody else waits already, or the VM doesn't run.
func (f *Fleet) Watch(r *Record) (vm banger.VM, due bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	vm = r.seen()
	if due = vm.State == banger.Running && r.watched != vm.Boots; due {
		r.watched, r.pauses = vm.Boots, plan.Pauses{}
	}
	return vm, due
}

// Unwatch says that nobody waits for the end of a run any more.
func (f *Fleet) Unwatch(r *Record, boots int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.watched == boots {
		r.watched = 0
	}
}

// Refused returns why nothing may be done to a VM; nil: it may.
func (f *Fleet) Refused(r *Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return r.refused
}

// Interrupt interrupts the creation or start in progress of a VM, if there is one.
func (f *Fleet) Interrupt(r *Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.cancel != nil {
		r.cancel()
	}
}

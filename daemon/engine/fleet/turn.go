package fleet

import (
	"cmp"
	"context"

	"banger"
	"banger/daemon/engine/plan"
)

// Turn is the time in which one verb may change a VM, and nobody else. Its Run has the plan
// that was found, or an empty one.
type Turn struct {
	*Record
	plan.Run
	VM banger.VM // the working copy, which others see once it was recorded

	fleet *Fleet
}

// Take waits for a turn of a VM and has work done in it.
//
// CodeNotFound: the VM was deleted. CodeConflict: its plan is none this build
// knows. ErrLeft: nobody begins anything any more.
func (f *Fleet) Take(ctx context.Context, r *Record, work func(*Turn) error) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.wg.Done()
	release, err := plan.Take(ctx, map[string]plan.Lock{r.id: r.lock})
	if err != nil {
		return err
	}
	defer release()
	t := &Turn{fleet: f, Record: r}
	t.Run = plan.Run{Plan: banger.Plan{ID: f.NewID()}, Record: t.record, Left: f.ctx.Done()}
	f.mu.Lock()
	gone, doubt, err := r.gone, r.doubt, r.refused
	t.VM = r.vm
	if r.plan != nil {
		t.Plan = *r.plan
	}
	f.mu.Unlock()
	switch {
	case gone:
		err = banger.Errorf(banger.CodeNotFound, "vm %s was deleted", r.id)
	case err == nil && doubt:
		err = t.believe(ctx)
	}
	if err != nil {
		return err
	}
	return work(t)
}

// believe ends the doubt after a failed commit. Clients were told what is in memory, so that
// is committed again before anything else is done. If the store gave the VM's name to
// another VM meanwhile, the failed change of name was recorded after all; then the VM has
// the name that the store has.
func (t *Turn) believe(ctx context.Context) error {
	found := t.Record.plan
	err := t.record(ctx, found, false)
	if banger.CodeOf(err) != banger.CodeConflict {
		return err
	}
	stored, serr := t.fleet.Store.VMs(ctx)
	if serr != nil {
		return serr
	}
	for _, vm := range stored {
		if vm.ID == t.VM.ID {
			t.VM.Spec = vm.Spec
			return t.record(ctx, found, false)
		}
	}
	return err
}

// record commits the working copy with the plan, then lets others see it.
func (t *Turn) record(ctx context.Context, p *banger.Plan, durable bool) error {
	f, r := t.fleet, t.Record
	if r.vm.State == banger.Gone || t.VM.State == banger.Deleting || r.vm.Spec.Name != t.VM.Spec.Name {
		// A client that is told that a name is taken must find the VM that has it, and one that
		// gets a free name must not find two VMs.
		f.naming.Lock()
		defer f.naming.Unlock()
	}
	t.VM.Held = t.Held()
	if err := f.Store.Commit(ctx, []banger.VM{t.VM}, p, durable); err != nil {
		if banger.CodeOf(err) == banger.CodeInternal { // else it was refused, and nothing written
			f.mu.Lock()
			if r.doubt = true; r.vm.State == banger.Gone { // a new VM, which may be recorded or not
				r.vm, r.plan = t.VM, p
				f.vms[t.VM.ID] = r
			}
			f.mu.Unlock()
			f.Later(r, err)
		}
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	entered := r.vm.State != t.VM.State
	r.vm, r.plan, r.doubt = t.VM, p, false
	if p == nil { // at rest
		r.pauses = plan.Pauses{}
	}
	if t.VM.State == banger.Gone {
		r.gone = true
		delete(f.vms, t.VM.ID)
	} else {
		f.vms[t.VM.ID] = r
	}
	if entered {
		t.Note(cmp.Or(string(t.VM.State), "deleted"), t.VM.Reason)
	}
	return nil
}

// Note tells the journal what happened to the VM.
func (t *Turn) Note(stage, message string) { t.fleet.Note(t.ID, t.VM, stage, message) }

// Note tells the journal what the operation op did to a VM.
func (f *Fleet) Note(op string, vm banger.VM, stage, message string) {
	if f.Journal != nil {
		f.Journal(banger.Event{Op: op, VM: vm.ID, Name: vm.Spec.Name, Stage: stage, Message: message, Time: f.Now()})
	}
}

// Interruptible lets a deletion, and the life's end, interrupt a creation or start.
func (t *Turn) Interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	t.fleet.mu.Lock()
	defer t.fleet.mu.Unlock()
	t.cancel = cancel
	stop := context.AfterFunc(t.fleet.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

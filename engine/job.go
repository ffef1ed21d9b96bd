package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"banger"
)

// move is one step of building a VM up. Taking it down is the undoing of its
// moves, last first, and an undo accepts that the move never happened.
type move struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error
}

// job is one operation on one VM. It has the VM's lock; vm is its working copy,
// which the others see once it was committed.
type job struct {
	e  *Engine
	r  *record
	vm banger.VM
	op banger.Op
	p  banger.Progress

	runs   bool // the creation of a VM ends in its start
	launch launch
}

// An undo is given this long. It runs whatever became of the client.
const undoTime = time.Minute

// build plans the moves and does them, each recorded before its first effect,
// unless the plan has it already. An error leaves the undoing to the caller.
func (j *job) build(ctx context.Context, moves ...move) error {
	for _, m := range moves {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !slices.Contains(j.op.Begun, m.name) {
			j.op.Begun = append(j.op.Begun, m.name)
			if err := j.commit(ctx, false); err != nil {
				return err
			}
		}
		j.tell(m.name, "")
		if err := m.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return ctx.Err()
}

// unwind undoes every begun move, last first, and ends in the state the plan
// says. An error leaves the plan where it is, to be tried again.
func (j *job) unwind(ctx context.Context, reason string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	end := j.op.Kind.End()
	if end == banger.Gone && j.vm.State != banger.Deleting {
		if err := j.vm.Advance(banger.Deleting, reason); err != nil {
			return err
		}
		if err := j.commit(ctx, false); err != nil {
			return err
		}
	}
	for _, m := range slices.Backward(j.moves()) {
		if !slices.Contains(j.op.Begun, m.name) {
			continue
		}
		if err := m.undo(ctx); err != nil {
			return fmt.Errorf("undo %s: %w", m.name, err)
		}
	}
	if j.vm.State != end {
		if err := j.vm.Advance(end, reason); err != nil {
			return err
		}
	}
	if end == banger.Stopped {
		j.vm.Stopped, j.vm.NeedsRestart = j.e.Now(), false
	}
	return j.done(ctx)
}

// moves lists everything a VM is built from, first to last.
func (j *job) moves() []move {
	return []move{j.directory(), j.disk(), attachment(j), linked(j), j.vmm(), j.agent()}
}

// everything names all moves of a VM, and running those that a start makes:
// what a deletion and a stop must assume to have begun. Lasting are those whose
// effects a power cut leaves: the plan of these is durable before the first of them.
var (
	everything = []string{"directory", "disk", "attach", "network", "vmm", "agent"}
	running    = []string{"attach", "network", "vmm", "agent"}
	lasting    = []string{"directory", "disk"}
)

// begin records the plan of an operation on the VM that is in state to from now
// on. A plan that was there, of an operation this one takes over, is replaced.
func (j *job) begin(ctx context.Context, plan banger.Op, to banger.State, reason string) error {
	plan.ID, plan.VM, plan.Opened = j.op.ID, j.vm.ID, j.e.Now()
	plan.Begun = slices.Clone(plan.Begun)
	j.op = plan
	if j.vm.State != to {
		if err := j.vm.Advance(to, reason); err != nil {
			return err
		}
	}
	return j.commit(ctx, plan.Kind == banger.OpDelete) // files are going
}

// commit records the working copy with the plan, then lets others see it.
func (j *job) commit(ctx context.Context, durable bool) error {
	op := j.op
	op.Begun = slices.Clone(op.Begun)
	return j.write(ctx, &op, durable)
}

// done records the working copy without a plan, durably: the acknowledgement.
func (j *job) done(ctx context.Context) error { return j.write(ctx, nil, true) }

func (j *job) write(ctx context.Context, op *banger.Op, durable bool) error {
	e, r := j.e, j.r
	if r.vm.State == banger.Gone || j.vm.State == banger.Deleting || r.vm.Spec.Name != j.vm.Spec.Name {
		// Who is told that a name is taken must find the VM that took it, and who gets
		// one that became free must not find two.
		e.naming.Lock()
		defer e.naming.Unlock()
	}
	e.mu.Lock()
	j.vm.Held = r.held
	e.mu.Unlock()
	if err := e.Store.Commit(ctx, j.vm, op, durable); err != nil {
		if banger.CodeOf(err) == banger.CodeInternal { // else it was refused, and nothing written
			e.mu.Lock()
			r.doubt = true
			e.mu.Unlock()
			e.later(r)
		}
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	entered := r.vm.State != j.vm.State
	r.vm, r.op, r.doubt = j.vm, op, false
	if j.vm.State == banger.Gone {
		r.gone = true
		r.disarm()
		delete(e.vms, j.vm.ID)
	} else {
		e.vms[j.vm.ID] = r
	}
	if entered {
		note(j, cmp.Or(string(j.vm.State), "deleted"), j.vm.Reason)
	}
	return nil
}

// note tells the journal what happened to the VM.
func note(j *job, stage, message string) {
	if j.e.Journal != nil {
		j.e.Journal(banger.Event{Op: j.op.ID, VM: j.vm.ID, Name: j.vm.Spec.Name, Stage: stage, Message: message, Time: j.e.Now()})
	}
}

// open takes the VM's lock for an operation.
func (e *Engine) open(ctx context.Context, r *record, p banger.Progress) (*job, error) {
	if err := e.acquire(ctx, r); err != nil {
		return nil, err
	}
	j := &job{e: e, r: r, p: p}
	e.mu.Lock()
	j.vm, j.op.ID = r.vm, e.NewID()
	op, doubt := r.op, r.doubt
	e.mu.Unlock()
	if op != nil {
		j.op = *op
	}
	if !doubt {
		return j, nil
	}
	// Memory says what the client was told; the store must say the same before
	// anything is built on it.
	if err := j.write(ctx, op, false); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

func (j *job) close() { <-j.r.lock }

// fail undoes what was built and returns what the user is told. When the
// undoing fails too, the plan stands and is tried again later.
func (j *job) fail(ctx context.Context, doing string, err error) error {
	note(j, "failed", doing+": "+err.Error())
	if uerr := j.unwind(ctx, doing+": "+err.Error()); uerr != nil {
		j.e.Log.Error("undo; will be tried again", "vm", j.vm.ID, "op", j.op.ID, "error", uerr)
		j.e.later(j.r)
	}
	return surface(j.op.ID, doing, err)
}

// interruptible lets DeleteVM end this build-up early: its end is the undoing
// that a deletion wants anyway.
func (j *job) interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	j.e.mu.Lock()
	j.r.cancel = cancel
	j.e.mu.Unlock()
	return ctx, func() {
		j.e.mu.Lock()
		j.r.cancel = nil
		j.e.mu.Unlock()
		cancel()
	}
}

func (j *job) tell(stage, message string) {
	if j.p != nil {
		j.p(banger.Event{Op: j.op.ID, VM: j.vm.ID, Stage: stage, Message: message, Time: j.e.Now()})
	}
}

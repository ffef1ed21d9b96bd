package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"banger"
	"banger/daemon/engine/fleet"
	"banger/daemon/engine/plan"
)

// The steps of a VM, by their names: all of them, those that a start does, and
// those whose effects a power cut leaves.
var (
	everything = []string{"directory", "disk", "attach", "network", "vmm", "agent"}
	running    = everything[2:]
	lasting    = everything[:2]
)

// known are the steps that a plan may have begun.
var known = map[banger.PlanKind][]string{
	banger.PlanCreate: everything, banger.PlanDelete: everything,
	banger.PlanStart: running, banger.PlanStop: running, banger.PlanRestart: running,
}

// job is one verb's work on one VM.
type job struct {
	parts
	doing string // "start vm web"
}

func (e *Engine) job(t *fleet.Turn, p banger.Progress) *job {
	j := &job{parts: parts{Turn: t, e: e, p: p}}
	t.Tell = func(step string) { j.tell(step, "") }
	return j
}

// build does what ends in a commit; on error it undoes it.
func (j *job) build(ctx context.Context, do func(context.Context) error) error {
	ctx, done := j.Interruptible(ctx)
	defer done()
	err := do(ctx)
	if err == nil {
		err = j.Done(ctx)
	}
	if err != nil {
		return j.fail(ctx, err)
	}
	j.e.watch(j.Record)
	return nil
}

// begin moves the VM to state to and records a plan in which all steps count as begun. It
// replaces the plan of an operation that this one takes over.
func (j *job) begin(ctx context.Context, p banger.Plan, to banger.State, reason string) error {
	p.ID, p.Subjects, p.Opened, p.Begun = j.ID, []string{j.VM.ID}, j.e.Now(), slices.Clone(known[p.Kind])
	j.Plan = p
	if j.VM.State != to {
		if err := j.VM.Advance(to, reason); err != nil {
			return err
		}
	}
	return j.Save(ctx, p.Kind == banger.PlanDelete) // a deletion removes files, so it must be durable
}

// undoTime is how long an undo may take. It goes on if the client leaves.
const undoTime = time.Minute

// unwind undoes every begun step and moves the VM to the plan's end state. What can't be
// undone is tried again later.
func (j *job) unwind(ctx context.Context, reason string) error {
	ctx, cancel := j.e.fleet.Finish(ctx, undoTime)
	defer cancel()
	err := j.undo(ctx, reason)
	if err != nil {
		j.e.fleet.Later(j.Record, err)
	}
	return err
}

func (j *job) undo(ctx context.Context, reason string) error {
	end := j.End()
	if j.Direction == banger.Again {
		reason = "restarting; " + reason
	}
	if end == banger.Gone && j.VM.State != banger.Deleting {
		if err := j.VM.Advance(banger.Deleting, reason); err != nil {
			return err
		}
		if err := j.Save(ctx, false); err != nil {
			return err
		}
	}
	if err := j.Undo(ctx, j.steps()...); err != nil {
		return err
	}
	if j.VM.State != end {
		if err := j.VM.Advance(end, reason); err != nil {
			return err
		}
	}
	if end == banger.Stopped {
		j.VM.Stopped, j.VM.NeedsRestart = j.e.Now(), false
	}
	return j.Rest(ctx)
}

// fail undoes a creation or start that failed by itself.
// One that is to be done again, and was only cut short, is left to the next daemon.
func (j *job) fail(ctx context.Context, err error) error {
	again := j.Direction == banger.Again
	if again && errors.Is(err, plan.ErrLeft) {
		return err
	}
	reason := j.doing + ": " + err.Error()
	j.Note("failed", reason)
	if again {
		j.Direction = banger.Back
		if j.VM.State != banger.Running { // else only the acknowledgement failed: nobody may see that it ran
			_ = j.Save(context.WithoutCancel(ctx), false) // the next commit says it too
		}
	}
	_ = j.unwind(ctx, reason) // tried again later, and said then
	return err
}

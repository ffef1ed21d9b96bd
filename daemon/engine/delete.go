package engine

import (
	"context"

	"banger"
)

// DeleteVM ends a VM in any state, with everything it has.
func (e *Engine) DeleteVM(ctx context.Context, ref string) error {
	r, err := e.fleet.Find(ref)
	if err != nil {
		return err
	}
	e.fleet.Interrupt(r)
	_, err = e.turn(ctx, e.fleet.Seen(r).ID, "delete", nil, func(ctx context.Context, j *job) error { return j.remove(ctx) })
	if banger.CodeOf(err) == banger.CodeNotFound {
		return nil // we, or its client, canceled its creation
	}
	return err
}

// PruneVM deletes a VM that is stopped.
func (e *Engine) PruneVM(ctx context.Context, ref string) error {
	_, err := e.turn(ctx, ref, "prune", nil, func(ctx context.Context, j *job) error {
		if j.VM.State != banger.Stopped || j.Kind != "" {
			return banger.Errorf(banger.CodeConflict, "it is %s, not stopped", j.VM.State)
		}
		return j.remove(ctx)
	})
	return err
}

// remove removes the VM with all it has.
func (j *job) remove(ctx context.Context) error {
	if err := j.begin(ctx, banger.Plan{Kind: banger.PlanDelete, Direction: banger.Forward}, banger.Deleting, "asked to delete"); err != nil {
		return err
	}
	return j.unwind(ctx, "deleted")
}

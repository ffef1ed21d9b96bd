package engine

import (
	"context"
	"errors"
	"time"

	"banger"
)

// StartVM runs a stopped VM.
func (e *Engine) StartVM(ctx context.Context, ref string, opt banger.StartOptions, p banger.Progress) (banger.VM, error) {
	return e.turn(ctx, ref, "start", p, func(ctx context.Context, j *job) error {
		if j.VM.State == banger.Running {
			return nil
		}
		j.VM.Ends = time.Time{}
		return j.start(ctx, opt)
	})
}

// start runs a stopped VM, by its plan if it has one, else by a new one.
func (j *job) start(ctx context.Context, opt banger.StartOptions) error {
	j.doing = "start vm " + j.VM.Spec.Name
	if j.VM.State != banger.Stopped {
		return banger.Errorf(banger.CodeConflict, "it is %s: %s", j.VM.State, j.VM.Reason)
	}
	err := j.e.room(j.VM.Spec)
	if j.Kind == "" {
		j.Plan = banger.Plan{ID: j.ID, Subjects: []string{j.VM.ID}, Kind: banger.PlanStart, Direction: banger.Back, Opened: j.e.Now(), Cold: opt.Cold}
	} else if err == nil {
		err = j.Anew()
	}
	if err != nil && j.Direction == banger.Again { // it stays stopped, and not until the next daemon only
		j.VM.Reason = j.doing + ": " + err.Error()
		err = errors.Join(err, j.Done(ctx))
	}
	if err != nil {
		return err
	}
	return j.build(ctx, j.run)
}

// run takes a VM from Stopped to Running, without the commit that ends the plan.
func (j *job) run(ctx context.Context) error {
	if err := j.VM.Advance(banger.Starting, ""); err != nil {
		return err
	}
	if j.Cold {
		j.launch.cold = "asked to boot"
	}
	j.VM.Boots++
	j.VM.Exit, j.VM.NeedsRestart, j.VM.Launch = nil, false, nil
	j.unseen() // saved with the first step: a guest may run in a start that fails
	if err := j.Do(ctx, j.steps()[len(lasting):]...); err != nil {
		return err
	}
	if j.VM.Started = j.e.Now(); j.VM.Ends.IsZero() { // a guest that reboots gets no more time
		j.VM.Ends = j.VM.Spec.Ends(j.VM.Started)
	}
	return j.VM.Advance(banger.Running, "")
}

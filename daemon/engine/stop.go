package engine

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"banger"
	"banger/daemon/engine/plan"
	"banger/guest"
)

// StopVM ends a VM's run, by the guest's own shutdown if it can.
func (e *Engine) StopVM(ctx context.Context, ref string, opt banger.StopOptions) (banger.VM, error) {
	return e.turn(ctx, ref, "stop", nil, func(ctx context.Context, j *job) error {
		switch j.VM.State {
		case banger.Stopped:
			if j.Kind != "" { // it was to start again
				return j.Done(ctx)
			}
			return nil
		case banger.Running:
			// From here on the VM stops, even if the client leaves.
			p := banger.Plan{Kind: banger.PlanStop, Direction: banger.Forward, Timeout: opt.Timeout, Force: opt.Force, Reason: opt.Reason}
			if err := j.begin(ctx, p, banger.Stopping, cmp.Or(opt.Reason, "asked to stop")); err != nil {
				return err
			}
		case banger.Starting, banger.Stopping: // an undo failed before: this is the next try
			j.Direction, j.Force = banger.Forward, j.Force || opt.Force
		default:
			return banger.Errorf(banger.CodeConflict, "it is %s: %s", j.VM.State, j.VM.Reason)
		}
		return j.down(ctx)
	})
}

// down moves a VM to Stopped, by its plan.
func (j *job) down(ctx context.Context) error {
	if j.VM.State == banger.Stopping && j.VM.Exit == nil {
		j.lookAtWork(j.e.fleet.Context())
		if err := j.shutdown(); err != nil {
			return err
		}
	}
	reason := ended(j.VM.Exit)
	if j.Reason != "" {
		reason = j.Reason + "; " + reason
	}
	return j.unwind(ctx, reason)
}

const (
	askTime  = 10 * time.Second       // within which a guest's agent must take the request to power off
	waitTime = 100 * time.Millisecond // until it is asked again how a machine ended
)

// shutdown asks the guest to power off and notes how that went. The undo kills what is left.
// An error means that the engine ends; the next one gives the guest the rest of its time.
func (j *job) shutdown() error {
	killed := func(why string) {
		j.VM.Exit = &banger.Exit{Kind: banger.ExitKilled, Detail: why, Status: -1, Time: j.e.Now()}
	}
	hv, err := j.e.hypervisor(j.VM)
	if err != nil || j.Force {
		killed("by request")
		return nil
	}
	if j.Timeout <= 0 {
		j.Timeout = j.e.Defaults.Stop
	}
	life := j.e.fleet.Context()
	late := fmt.Errorf("the guest did not end within %s", j.Timeout.Round(time.Second))
	bound, cancel := context.WithTimeoutCause(life, j.Remaining(j.e.Now(), askTime), late)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(bound)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer giveUp(nil)
	m := j.e.machine(j.VM)
	asking.Go(func() {
		// A shorter bound: don't wait the whole time for a guest that doesn't answer.
		ask, done := context.WithTimeout(ctx, askTime)
		defer done()
		c := guest.Client{Dial: dialer(hv, m)}
		if err := c.Shutdown(ask, "poweroff"); err != nil {
			giveUp(fmt.Errorf("the guest's agent could not be asked: %w", err))
		}
	})
	for ctx.Err() == nil {
		exit, err := hv.Wait(ctx, m, j.Held())
		if err == nil {
			j.VM.Exit = &exit
			return nil
		}
		if ctx.Err() == nil {
			j.e.Log.Warn("the end of a VM that stops can't be waited for; trying again", "vm", j.VM.ID, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(waitTime):
			}
		}
	}
	if life.Err() != nil {
		return plan.ErrLeft
	}
	killed(context.Cause(ctx).Error())
	return nil
}

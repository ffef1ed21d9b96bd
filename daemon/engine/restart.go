package engine

import (
	"context"
	"time"

	"banger"
)

// RestartVM stops a VM and starts it again.
func (e *Engine) RestartVM(ctx context.Context, ref string, opt banger.StopOptions, p banger.Progress) (banger.VM, error) {
	return e.turn(ctx, ref, "restart", p, func(ctx context.Context, j *job) error {
		j.VM.Ends = time.Time{}
		if j.VM.State == banger.Running {
			p := banger.Plan{Kind: banger.PlanRestart, Direction: banger.Again, Timeout: opt.Timeout, Force: opt.Force, Cold: opt.Cold}
			if err := j.begin(ctx, p, banger.Stopping, "asked to restart"); err != nil {
				return err
			}
			// From here on the VM starts again, even if the client leaves.
			ctx = j.e.fleet.Context()
			j.tell("stop", "")
			if err := j.down(ctx); err != nil {
				return err
			}
		}
		return j.start(ctx, banger.StartOptions{Cold: opt.Cold})
	})
}

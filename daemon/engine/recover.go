package engine

import (
	"context"
	"fmt"
	"time"

	"banger"
	"banger/daemon/engine/fleet"
)

const (
	seenTime    = 2 * time.Second // for a driver to say how an ended machine ended
	rebootLimit = 5               // reboots within rebootSpan after which a guest is left stopped
	rebootSpan  = 60 * time.Second
)

// settle finishes a VM's plan, or adopts the VM if it runs. It may be called at any time, and
// again.
func (e *Engine) settle(ctx context.Context, r *fleet.Record) {
	err := e.fleet.Take(ctx, r, func(t *fleet.Turn) error {
		if e.job(t, nil).resume(ctx) == nil {
			e.fleet.Arm(r)
		}
		return nil // on an error resume has arranged for another try
	})
	if err != nil {
		e.fleet.Later(r, err) // which does nothing for one that is gone or refused
	}
}

// resume goes on with the VM's plan where an earlier daemon left it, else with its run.
func (j *job) resume(ctx context.Context) (err error) {
	switch {
	case j.Kind == "" && j.VM.State == banger.Running:
		if err = j.adopt(ctx); err != nil {
			j.e.fleet.Later(j.Record, err)
		}
	case j.Kind == "" || j.Direction == banger.Again && j.VM.State == banger.Stopped:
	case j.VM.State == banger.Stopping:
		err = j.down(ctx)
	default:
		err = j.unwind(ctx, "its "+string(j.Kind)+" was cut short")
	}
	if err == nil {
		j.again(ctx)
	}
	return err
}

// again starts a stopped VM if its plan says so. A start that fails isn't tried again; the
// VM's reason says why.
func (j *job) again(ctx context.Context) {
	if j.Direction == banger.Again {
		if err := j.start(ctx, banger.StartOptions{}); err != nil {
			j.e.Log.Error("start again", "vm", j.VM.ID, "op", j.ID, "error", err)
		}
	}
}

// adopt finds a running VM again, or finds that it has ended.
func (j *job) adopt(ctx context.Context) error {
	hv, err := j.e.hypervisor(j.VM)
	if err != nil {
		return err
	}
	m, was := j.e.machine(j.VM), j.Held()
	h, alive, err := hv.Adopt(ctx, m, was.Of(banger.MachineHandles))
	if err != nil {
		return err
	}
	j.Keep(was.With(banger.MachineHandles, h))
	if !alive {
		soon, cancel := context.WithTimeout(ctx, seenTime)
		defer cancel()
		exit, err := hv.Wait(soon, m, j.Held())
		if err != nil {
			exit = banger.Exit{Kind: banger.ExitUnknown, Status: -1, Time: j.e.Now()}
		}
		if boot := was.VMM.BootID; exit.Kind == banger.ExitUnknown && boot != "" && boot != j.e.BootID {
			exit.Detail = "the host was restarted"
		}
		return j.finish(ctx, exit, false)
	}
	j.refind(ctx)
	if h := j.Held(); h != was || h != j.VM.Held {
		j.Hold(h)
		if err := j.Run.Record(ctx, nil, false); err != nil {
			return err
		}
	}
	j.e.watch(j.Record)
	return nil
}

// finish moves a VM whose machine has ended to Stopped. If its guest rebooted and nobody
// asked for the end, it plans the next start.
func (j *job) finish(ctx context.Context, exit banger.Exit, meant bool) error {
	j.e.fleet.Unwatch(j.Record, j.VM.Boots)
	p := banger.Plan{Kind: banger.PlanStop, Direction: banger.Forward}
	reason := ended(&exit)
	switch {
	case exit.Kind != banger.ExitReboot || meant:
	case j.e.fleet.MayReboot(j.Record, rebootLimit, rebootSpan):
		p = banger.Plan{Kind: banger.PlanRestart, Direction: banger.Again}
	default:
		reason = fmt.Sprintf("it rebooted more than %d times within %s", rebootLimit, rebootSpan)
	}
	j.VM.Exit = &exit
	if err := j.begin(ctx, p, banger.Stopping, reason); err != nil {
		j.e.fleet.Later(j.Record, err)
		return err
	}
	return j.unwind(ctx, reason)
}

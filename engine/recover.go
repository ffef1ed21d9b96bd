package engine

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"banger"
	"banger/guest"
)

const (
	recoverers  = 8                // VMs put in order side by side at Open
	seenTime    = 2 * time.Second  // for a driver to say how an ended machine ended
	rebootLimit = 5                // reboots within rebootSpan after which a guest is left stopped
	rebootSpan  = 60 * time.Second //
)

// recover puts every VM in order and returns when each was tried once.
func (e *Engine) recover(ctx context.Context) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, recoverers)
	for _, vm := range e.all() {
		r, err := e.find(vm.ID)
		if err != nil {
			continue // its lease ran out already
		}
		if vm.State == banger.Stopped && r.op == nil && !rebooting(vm) {
			e.arm(r)
			continue
		}
		e.keep(r, e.recall(vm))
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			e.settle(ctx, r)
		})
	}
	wg.Wait()
}

// settle brings one VM from whatever the store says to a state at rest. It may
// be called at any time, as often as one likes.
func (e *Engine) settle(ctx context.Context, r *record) {
	j, err := e.open(ctx, r, nil)
	if err != nil {
		e.later(r) // which does nothing when the VM is gone or the engine closed
		return
	}
	defer j.close()
	switch {
	case j.op.Kind != "": // an operation was in flight
		reason := "its " + string(j.op.Kind) + " was cut short"
		if j.op.Kind == banger.OpStop || j.op.Kind == banger.OpRestart {
			if j.vm.Exit == nil {
				j.vm.Exit = j.shutdown(ctx, banger.StopOptions{Timeout: askTime})
			}
			reason = ended(j.vm.Exit)
		}
		if j.op.Kind == banger.OpRestart {
			j.vm.Exit = rebootAsked(j.vm.Exit, j.op.Cold)
		}
		err = j.unwind(ctx, reason)
	case j.vm.State == banger.Running:
		err = j.adopt(ctx)
	}
	if err != nil {
		e.Log.Error("put in order; will be tried again", "vm", j.vm.ID, "op", j.op.ID, "error", err)
		e.later(r)
		return
	}
	j.reboot(ctx)
	e.arm(r)
}

// rebooting reports whether a reboot was asked for, by the guest or by a user,
// that the VM has not had yet. A stop that was asked for never ends so.
func rebooting(vm banger.VM) bool {
	return vm.State == banger.Stopped && vm.Exit != nil && vm.Exit.Kind == banger.ExitReboot
}

// rebootAsked is the end of a run that a restart ended: recorded, it has the
// next daemon finish what this one may not live to, without a template if it is to be cold.
func rebootAsked(x *banger.Exit, cold bool) *banger.Exit {
	return &banger.Exit{Kind: banger.ExitReboot, Detail: "restart was asked for; " + ended(x), Status: x.Status, Time: x.Time, Cold: cold}
}

// reboot starts the VM again if that is what its guest asked for. A start that
// fails is not tried again: the reason stands in the record.
func (j *job) reboot(ctx context.Context) {
	if !rebooting(j.vm) {
		return
	}
	next := &job{e: j.e, r: j.r, vm: j.vm, op: banger.Op{ID: j.e.NewID()}}
	if j.vm.Exit.Cold {
		next.launch.cold = askedCold
	}
	if err := next.start(ctx); err != nil {
		j.e.Log.Error("start after the guest's reboot", "vm", j.vm.ID, "op", next.op.ID, "error", err)
	}
}

// adopt finds a running VM again, or finds it ended.
func (j *job) adopt(ctx context.Context) error {
	hv, err := j.e.hypervisor(j.vm)
	if err != nil {
		return err
	}
	m := j.e.machine(j.vm)
	h, alive, err := hv.Adopt(ctx, m, j.held().Of(banger.MachineHandles))
	if err != nil {
		return err
	}
	h = j.held().With(banger.MachineHandles, h)
	if !alive {
		exit := exitOf(ctx, hv, m, h, j.e.Now())
		if boot := j.held().VMM.BootID; exit.Kind == banger.ExitUnknown && boot != "" && boot != j.e.BootID {
			exit.Detail = "the host was restarted"
		}
		j.e.keep(j.r, h)
		return j.finish(ctx, exit)
	}
	h = again(ctx, j, h)
	if h != j.held() || h != j.vm.Held {
		j.hold(h)
		if err := j.write(ctx, nil, false); err != nil {
			return err
		}
	}
	j.e.watch(j.r)
	return nil
}

// exitOf asks how a machine that isn't there any more ended.
func exitOf(ctx context.Context, hv banger.Hypervisor, m banger.Machine, h banger.Handles, now time.Time) banger.Exit {
	ctx, cancel := context.WithTimeout(ctx, seenTime)
	defer cancel()
	x, err := hv.Wait(ctx, m, h)
	if err != nil {
		return banger.Exit{Kind: banger.ExitUnknown, Status: -1, Time: now}
	}
	return x
}

// watch waits for the end of a running VM's run, once for each run.
func (e *Engine) watch(r *record) {
	e.mu.Lock()
	vm, h := r.vm, r.held
	due := vm.State == banger.Running && r.watched != vm.Boots
	if due {
		r.watched = vm.Boots
	}
	e.mu.Unlock()
	if !due {
		return
	}
	hv, err := e.hypervisor(vm)
	if err != nil {
		return
	}
	e.spawn(func(ctx context.Context) {
		e.clock(ctx, &guest.Client{Dial: dialer(hv, e.machine(vm))}, e.Log.With("vm", vm.ID))
	})
	e.spawn(func(ctx context.Context) {
		exit, err := hv.Wait(ctx, e.machine(vm), h)
		if err != nil {
			if ctx.Err() == nil {
				e.Log.Error("wait for the vm's end", "vm", vm.ID, "error", err)
				e.unwatch(r, vm.Boots)
				e.later(r)
			}
			return
		}
		e.ended(ctx, r, vm.Boots, exit)
	})
}

// clockTime is given to the setting of a clock: a busy guest takes some readings.
const clockTime = 10 * time.Minute

// syncClock sets the clock of a guest that was found again, or that took long to
// start: a suspended host makes it late. A guest that can't be asked runs on.
func syncClock(ctx context.Context, c *guest.Client, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, clockTime)
	defer cancel()
	ahead, err := c.SyncClock(ctx)
	if err != nil {
		log.Debug("the guest's clock was not compared", "error", err)
		return
	}
	log.Debug("the guest's clock", "ahead", ahead)
}

// ended sees to a run that ended by itself.
func (e *Engine) ended(ctx context.Context, r *record, boots int, exit banger.Exit) {
	j, err := e.open(ctx, r, nil)
	if err != nil {
		return
	}
	defer j.close()
	if j.vm.State != banger.Running || j.vm.Boots != boots || j.op.Kind != "" {
		return // whoever had the VM before us saw to it
	}
	e.unwatch(r, boots)
	if err := j.finish(ctx, exit); err != nil {
		e.Log.Error("clean up; will be tried again", "vm", j.vm.ID, "op", j.op.ID, "error", err)
		e.later(r)
		return
	}
	j.reboot(ctx)
}

// finish takes a VM whose machine ended by itself to Stopped.
func (j *job) finish(ctx context.Context, exit banger.Exit) error {
	if exit.Kind == banger.ExitReboot && !j.e.mayReboot(j.r, j.e.Now()) {
		exit.Kind, exit.Detail = banger.ExitKilled, fmt.Sprintf("it rebooted more than %d times within %s", rebootLimit, rebootSpan)
	}
	j.vm.Exit = &exit
	if err := j.begin(ctx, banger.Op{Kind: banger.OpStop, Begun: running}, banger.Stopping, endedBy(exit)); err != nil {
		return err
	}
	return j.unwind(ctx, endedBy(exit))
}

// later settles the VM again after a while.
func (e *Engine) later(r *record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || r.gone {
		return
	}
	if r.retry != nil {
		r.retry.Stop()
	}
	r.retry = e.after(e.Defaults.Retry, func(ctx context.Context) { e.settle(ctx, r) })
}

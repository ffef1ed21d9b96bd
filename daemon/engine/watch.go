package engine

import (
	"context"
	"log/slog"
	"time"

	"banger"
	"banger/daemon/engine/fleet"
	"banger/guest"
)

// watch waits for the end of a running VM's run, once for each run.
func (e *Engine) watch(r *fleet.Record) {
	vm, due := e.fleet.Watch(r)
	if !due {
		return
	}
	hv, err := e.hypervisor(vm)
	if err != nil {
		return
	}
	m := e.machine(vm)
	e.fleet.Go(func(ctx context.Context) {
		e.clock(ctx, &guest.Client{Dial: dialer(hv, m)}, e.Log.With("vm", vm.ID))
	})
	e.fleet.Go(func(ctx context.Context) {
		exit, err := hv.Wait(ctx, m, vm.Held)
		if err != nil {
			e.fleet.Unwatch(r, vm.Boots)
			e.fleet.Later(r, err)
			return
		}
		_ = e.fleet.Take(ctx, r, func(t *fleet.Turn) error {
			j := e.job(t, nil)
			if j.VM.State != banger.Running || j.VM.Boots != vm.Boots || j.Kind != "" {
				return nil // a verb before us has handled it
			}
			if j.finish(ctx, exit, false) == nil {
				j.again(ctx)
			}
			return nil
		})
	})
}

// clockTime is how long setting a clock may take: a busy guest needs several readings.
const clockTime = 10 * time.Minute

// syncClock sets the clock of a guest that was found again, or that took long to start: its
// clock is behind if the host was suspended. If the guest can't be asked, it runs on.
func syncClock(ctx context.Context, c *guest.Client, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, clockTime)
	defer cancel()
	ahead, err := c.SyncClock(ctx)
	log.Debug("the guest's clock", "ahead", ahead, "error", err)
}

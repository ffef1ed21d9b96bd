package engine_test

import (
	"context"
	"fmt"
	"time"

	"banger"
)

// verb is one operation of a client, or of a guest, and what it promises.
type verb struct {
	name    string
	prepare func(*world, *daemon) // before anything befalls it
	call    func(context.Context, *daemon) error
	after   func(found *banger.VM) bool // may the VM "it" be so, once the call was acknowledged
	always  func(found *banger.VM) bool // and once the daemon's end cut it short; nil: in any state at rest
	sure    string                      // a point from which on it ends as if it had been acknowledged
	own     bool                        // no client waits: the daemon does it by itself
	how     string                      // how it is started where nothing fails: "warm", or "cold" from its second run on

	haste    bool          // the guest is killed, and not asked
	patience time.Duration // what the guest was promised for its own shutdown; 0: nothing
	takes    time.Duration // and what it takes for it
}

func is(state banger.State) func(*banger.VM) bool {
	return func(vm *banger.VM) bool { return vm != nil && vm.State == state }
}

func gone(vm *banger.VM) bool { return vm == nil }

// either is for what may have happened or not.
func either(a, b func(*banger.VM) bool) func(*banger.VM) bool {
	return func(vm *banger.VM) bool { return a(vm) || b(vm) }
}

// again is a VM that runs for the second time at least.
func again(vm *banger.VM) bool { return is(banger.Running)(vm) && vm.Boots > 1 }

// Specs of "it": on the bridge, and restored from one template or the other.
var (
	bridged = banger.Spec{Name: "it", Ports: []banger.Published{{Guest: 80, Protocol: "tcp"}, {Port: 5353, Guest: 53, Protocol: "udp"}}}
	user    = banger.Spec{Name: "it", Net: banger.NetUser}
	cloned  = banger.Spec{Name: "it", Net: banger.NetUser, DiskMiB: clonedMiB}
	leased  = banger.Spec{Name: "it", Remove: true}
)

func create(spec banger.Spec, start bool) func(context.Context, *daemon) error {
	return func(ctx context.Context, d *daemon) error {
		_, err := d.CreateVM(ctx, spec, start, nil)
		return err
	}
}

func start(ctx context.Context, d *daemon) error {
	_, err := d.StartVM(ctx, "it", banger.StartOptions{}, nil)
	return err
}

func stop(opt banger.StopOptions) func(context.Context, *daemon) error {
	return func(ctx context.Context, d *daemon) error {
		_, err := d.StopVM(ctx, "it", opt)
		return err
	}
}

func restart(opt banger.StopOptions) func(context.Context, *daemon) error {
	return func(ctx context.Context, d *daemon) error {
		_, err := d.RestartVM(ctx, "it", opt, nil)
		return err
	}
}

func set(change banger.Change) func(context.Context, *daemon) error {
	return func(ctx context.Context, d *daemon) error {
		_, err := d.SetVM(ctx, "it", change)
		return err
	}
}

func remove(ctx context.Context, d *daemon) error { return d.DeleteVM(ctx, "it") }

// ends lets the guest end by itself and waits for what comes of it.
func ends(kind banger.ExitKind, wanted func(banger.VM, error) bool) func(context.Context, *daemon) error {
	return func(ctx context.Context, d *daemon) error {
		vm, err := d.VM(ctx, "it")
		if err != nil {
			return err
		}
		d.host.EndGuest(vm.ID, banger.Exit{Kind: kind})
		return d.until("it", wanted)
	}
}

// reboots lets the guest reboot and waits until it runs again, or has failed to.
func reboots(ctx context.Context, d *daemon) error {
	err := ends(banger.ExitReboot, func(vm banger.VM, err error) bool {
		return err == nil && vm.Boots == 2 && (vm.State == banger.Running || vm.State == banger.Stopped)
	})(ctx, d)
	if vm, verr := d.VM(ctx, "it"); err == nil && verr == nil && vm.State == banger.Stopped {
		err = fmt.Errorf("it stays stopped: %s", vm.Reason)
	}
	return err
}

// meanwhile deletes "it" while its agent is asked for the first time.
func meanwhile(begin func(context.Context, *daemon) error) func(context.Context, *daemon) error {
	return func(ctx context.Context, d *daemon) error {
		h := &hold{at: pause{"configure", 1}, lasts: time.Hour, reached: make(chan struct{})}
		d.w.pauses.reset(h)
		begun := make(chan error, 1)
		go func() { begun <- begin(ctx, d) }()
		select {
		case <-h.reached:
		case err := <-begun:
			return err
		case <-d.life.Dead():
		}
		if err := d.DeleteVM(ctx, "it"); err != nil {
			return err
		}
		if err := <-begun; err == nil {
			return fmt.Errorf("what was deleted meanwhile succeeded")
		}
		return nil
	}
}

func made(spec banger.Spec, start bool) func(*world, *daemon) {
	return func(w *world, d *daemon) {
		if err := create(spec, start)(context.Background(), d); err != nil {
			w.t.Fatal(err)
		}
	}
}

const stopping = "after commit stopping"

// verbs is what clients and guests do. Guests take three seconds to end.
var verbs = []verb{
	{name: "create", call: create(bridged, true), after: is(banger.Running), always: either(gone, is(banger.Running))},
	{name: "create without start", call: create(bridged, false), after: is(banger.Stopped), always: either(gone, is(banger.Stopped))},
	{name: "create, warm", call: create(user, true), after: is(banger.Running), always: either(gone, is(banger.Running)), how: "warm"},
	{name: "create from an image template", call: create(cloned, true), after: is(banger.Running), always: either(gone, is(banger.Running)), how: "warm"},
	{name: "start", prepare: made(bridged, false), call: start, after: is(banger.Running)},
	{name: "start, warm", prepare: made(user, false), call: start, after: is(banger.Running), how: "warm"},
	{name: "stop", prepare: made(bridged, true), call: stop(banger.StopOptions{}), after: is(banger.Stopped), sure: stopping, patience: 30 * time.Second},
	{name: "stop, slowly", prepare: made(user, true), call: stop(banger.StopOptions{Timeout: 5 * time.Minute}), after: is(banger.Stopped), sure: stopping,
		patience: 5 * time.Minute, takes: 4 * time.Minute},
	{name: "stop of a guest that won't", prepare: made(bridged, true), call: stop(banger.StopOptions{Timeout: 2 * time.Minute}), after: is(banger.Stopped), sure: stopping,
		patience: 2 * time.Minute, takes: 1000 * time.Hour},
	{name: "kill", prepare: made(bridged, true), call: stop(banger.StopOptions{Force: true}), after: is(banger.Stopped), sure: stopping},
	{name: "kill of a guest that won't end", prepare: made(user, true), call: stop(banger.StopOptions{Force: true}), after: is(banger.Stopped), sure: stopping,
		takes: 1000 * time.Hour, haste: true},
	{name: "kill by signal", prepare: made(bridged, true), call: func(ctx context.Context, d *daemon) error {
		_, err := d.KillVM(ctx, "it", "KILL")
		return err
	}, after: is(banger.Stopped), sure: "after signal KILL"},
	{name: "restart", prepare: made(bridged, true), call: restart(banger.StopOptions{}), after: again, always: is(banger.Running), sure: stopping, patience: 30 * time.Second},
	{name: "restart, slowly", prepare: made(bridged, true), call: restart(banger.StopOptions{Timeout: 5 * time.Minute}), after: again, always: is(banger.Running), sure: stopping,
		patience: 5 * time.Minute, takes: 4 * time.Minute},
	{name: "restart, warm", prepare: made(user, true), call: restart(banger.StopOptions{}), after: again, always: is(banger.Running), sure: stopping, patience: 30 * time.Second, how: "warm"},
	{name: "restart --cold", prepare: made(user, true), call: restart(banger.StopOptions{Cold: true}), after: again, always: is(banger.Running), sure: stopping, patience: 30 * time.Second, how: "cold"},
	{name: "restart stopped", prepare: made(bridged, false), call: restart(banger.StopOptions{}), after: is(banger.Running)},
	{name: "set", prepare: made(bridged, true), call: set(banger.Change{VCPU: 3, MemoryMiB: 512, DiskMiB: 4096}), after: func(vm *banger.VM) bool {
		return is(banger.Running)(vm) && vm.Spec.VCPU == 3 && vm.Spec.MemoryMiB == 512 && vm.Spec.DiskMiB == 4096
	}, always: is(banger.Running)},
	{name: "publish", prepare: made(bridged, true), call: set(banger.Change{
		Publish: &[]banger.Published{{Port: 8080, Guest: 8080, Protocol: "tcp"}}, Unpublish: &[]banger.Published{{Guest: 53, Protocol: "udp"}},
	}), after: func(vm *banger.VM) bool {
		return is(banger.Running)(vm) && len(vm.Spec.Ports) == 2 && vm.Spec.Ports[1].Port == 8080
	}, always: is(banger.Running)},
	{name: "publish of a stopped VM", prepare: made(user, false), call: func(ctx context.Context, d *daemon) error {
		if err := set(banger.Change{Publish: &[]banger.Published{{Guest: 80, Protocol: "tcp"}}})(ctx, d); err != nil {
			return err
		}
		return start(ctx, d)
	}, after: func(vm *banger.VM) bool { return is(banger.Running)(vm) && len(vm.Spec.Ports) == 1 }},
	{name: "set, then start", prepare: made(bridged, false), call: func(ctx context.Context, d *daemon) error {
		if err := set(banger.Change{DiskMiB: 4096})(ctx, d); err != nil {
			return err
		}
		return start(ctx, d)
	}, after: func(vm *banger.VM) bool { return is(banger.Running)(vm) && vm.Spec.DiskMiB == 4096 }},
	{name: "rename", prepare: made(bridged, false), call: func(ctx context.Context, d *daemon) error {
		if _, err := d.SetVM(ctx, "it", banger.Change{Name: "that"}); err != nil {
			return err
		}
		_, err := d.SetVM(ctx, "that", banger.Change{Name: "it"})
		return err
	}, after: is(banger.Stopped)},
	{name: "prune", prepare: made(bridged, false), call: func(ctx context.Context, d *daemon) error { return d.PruneVM(ctx, "it") }, after: gone, sure: "after commit deleting"},
	{name: "guest powers off", prepare: made(bridged, true), call: ends(banger.ExitPoweroff, stopped), after: is(banger.Stopped), always: is(banger.Stopped), own: true},
	{name: "guest reboots", prepare: made(bridged, true), call: reboots, after: again, always: again, own: true},
	{name: "guest reboots, warm", prepare: made(user, true), call: reboots, after: again, always: again, own: true, how: "warm"},
	{name: "delete running", prepare: made(bridged, true), call: remove, after: gone, sure: "after commit deleting"},
	{name: "delete stopped", prepare: made(bridged, false), call: remove, after: gone, sure: "after commit deleting"},
	{name: "delete a clone", prepare: made(cloned, true), call: remove, after: gone, sure: "after commit deleting"},
	{name: "delete during create", call: meanwhile(create(bridged, true)), after: gone, always: gone},
	{name: "delete during start", prepare: made(user, false), call: meanwhile(start), after: gone, always: either(gone, is(banger.Stopped))},
	{name: "lease runs out", prepare: made(leased, true), call: func(_ context.Context, d *daemon) error { return d.until("it", deleted) }, after: gone, own: true},
}

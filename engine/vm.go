package engine

import (
	"cmp"
	"context"
	"errors"
	"time"

	"banger"
	"banger/guest"
)

// CreateVM makes a VM and, with start, runs it.
func (e *Engine) CreateVM(ctx context.Context, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
	return create(ctx, e, e.NewID(), spec, start, p)
}

// create makes a VM as the operation op.
func create(ctx context.Context, e *Engine, op string, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
	j, err := e.reserve(ctx, op, spec, p)
	if err != nil {
		return banger.VM{}, surface(op, "create a vm", err)
	}
	defer j.close()
	j.tell(banger.StageSpec, words(j.vm.Spec))
	ctx, done := j.interruptible(ctx)
	defer done()

	j.runs = start
	err = j.build(ctx, j.directory(), j.disk())
	if err == nil {
		err = j.vm.Advance(banger.Stopped, "created")
	}
	if err == nil && start {
		err = j.run(ctx)
	}
	if err == nil {
		err = j.done(ctx)
	}
	if err != nil {
		return banger.VM{}, j.fail(ctx, "create vm "+j.vm.Spec.Name, err)
	}
	e.watch(j.r)
	e.arm(j.r)
	return e.seen(j.r), nil
}

// StartVM runs a stopped VM.
func (e *Engine) StartVM(ctx context.Context, ref string, p banger.Progress) (banger.VM, error) {
	return startVM(ctx, e, ref, "", p)
}

// startVM runs a stopped VM; cold says why it mustn't be restored, if it mustn't.
func startVM(ctx context.Context, e *Engine, ref, cold string, p banger.Progress) (banger.VM, error) {
	r, err := e.find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	j, err := e.open(ctx, r, p)
	if err != nil {
		return banger.VM{}, surface("", "start vm "+ref, err)
	}
	defer j.close()
	if j.vm.State == banger.Running {
		return e.seen(r), nil
	}
	j.launch.cold = cold
	if err := j.start(ctx); err != nil {
		return banger.VM{}, err
	}
	return e.seen(r), nil
}

// start runs the VM of a job that has nothing planned yet.
func (j *job) start(ctx context.Context) error {
	doing := "start vm " + j.vm.Spec.Name
	if j.vm.State != banger.Stopped {
		return surface(j.op.ID, doing, banger.Errorf(banger.CodeConflict, "it is %s: %s", j.vm.State, j.vm.Reason))
	}
	if err := room(j.vm.Spec, j.e.HostMemoryMiB); err != nil {
		if rebooting(j.vm) { // it stays stopped, and not until the next daemon only
			j.vm.Exit, j.vm.Reason = final(*j.vm.Exit), doing+": "+err.Error()
			err = errors.Join(err, j.done(ctx))
		}
		return surface(j.op.ID, doing, err)
	}
	ctx, done := j.interruptible(ctx)
	defer done()
	j.op.Kind, j.op.VM, j.op.Opened = banger.OpStart, j.vm.ID, j.e.Now()
	err := j.run(ctx)
	if err == nil {
		err = j.done(ctx)
	}
	if err != nil {
		return j.fail(ctx, doing, err)
	}
	j.e.watch(j.r)
	return nil
}

// run takes a VM from Stopped to Running, short of the acknowledging commit.
func (j *job) run(ctx context.Context) error {
	if err := j.vm.Advance(banger.Starting, ""); err != nil {
		return err
	}
	j.vm.Boots++
	j.vm.Exit, j.vm.NeedsRestart, j.vm.Launch = nil, false, nil
	if err := j.build(ctx, attachment(j), linked(j), j.vmm(), j.agent()); err != nil {
		return err
	}
	j.vm.Started = j.e.Now()
	return j.vm.Advance(banger.Running, "")
}

// StopVM ends a VM's run, by the guest's own shutdown if it can.
func (e *Engine) StopVM(ctx context.Context, ref string, opt banger.StopOptions) (banger.VM, error) {
	r, err := e.find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	j, err := e.open(ctx, r, nil)
	if err != nil {
		return banger.VM{}, surface("", "stop vm "+ref, err)
	}
	defer j.close()
	doing := "stop vm " + j.vm.Spec.Name
	switch j.vm.State {
	case banger.Stopped:
		return e.seen(r), nil
	case banger.Running:
		if err := j.begin(ctx, banger.Op{Kind: banger.OpStop, Begun: running}, banger.Stopping, cmp.Or(opt.Reason, "asked to stop")); err != nil {
			return banger.VM{}, surface(j.op.ID, doing, err)
		}
		// From here on the VM stops, whatever becomes of the client.
		j.vm.Exit = j.shutdown(context.WithoutCancel(ctx), opt)
	case banger.Starting, banger.Stopping:
		// An undo that failed before: this is the next try.
	default:
		return banger.VM{}, surface(j.op.ID, doing, banger.Errorf(banger.CodeConflict, "it is %s: %s", j.vm.State, j.vm.Reason))
	}
	reason := ended(j.vm.Exit)
	if opt.Reason != "" {
		reason = opt.Reason + "; " + reason
	}
	if err := j.unwind(ctx, reason); err != nil {
		e.later(r)
		return banger.VM{}, surface(j.op.ID, doing, err)
	}
	return e.seen(r), nil
}

// A guest's agent must take the request to power off within this.
const askTime = 10 * time.Second

// shutdown asks the guest to power off and says how that went. It leaves the
// killing of what remains to the undo.
func (j *job) shutdown(ctx context.Context, opt banger.StopOptions) *banger.Exit {
	killed := func(why string) *banger.Exit {
		return &banger.Exit{Kind: banger.ExitKilled, Detail: why, Status: -1, Time: j.e.Now()}
	}
	hv, err := j.e.hypervisor(j.vm)
	if err != nil || opt.Force {
		return killed("by request")
	}
	if opt.Timeout <= 0 {
		opt.Timeout = j.e.Defaults.Stop
	}
	ctx, cancel := context.WithTimeout(ctx, opt.Timeout)
	defer cancel()
	m := j.e.machine(j.vm)
	refused := make(chan error, 1)
	j.e.spawn(func(context.Context) {
		// Bounded apart: a guest that doesn't even answer isn't worth the whole wait.
		ctx, done := context.WithTimeout(ctx, askTime)
		defer done()
		c := guest.Client{Dial: dialer(hv, m)}
		if err := c.Shutdown(ctx, "poweroff"); err != nil {
			refused <- err
			cancel()
		}
	})
	exit, err := hv.Wait(ctx, m, j.held())
	if err == nil {
		return final(exit)
	}
	select {
	case err := <-refused:
		return killed("the guest's agent could not be asked: " + err.Error())
	default:
		return killed("the guest did not end within " + opt.Timeout.Round(time.Second).String())
	}
}

// final is the end of a run that nobody wants another after: recorded as a
// reboot, it would have the VM started again.
func final(x banger.Exit) *banger.Exit {
	if x.Kind == banger.ExitReboot {
		x.Kind, x.Detail = banger.ExitPoweroff, "it asked for a reboot"
	}
	return &x
}

// DeleteVM ends a VM in any state, with everything it has.
func (e *Engine) DeleteVM(ctx context.Context, ref string) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	e.mu.Lock()
	if r.cancel != nil {
		r.cancel()
	}
	e.mu.Unlock()
	j, err := e.open(ctx, r, nil)
	if banger.CodeOf(err) == banger.CodeNotFound {
		return nil // a creation that we, or its client, gave up
	}
	if err != nil {
		return surface("", "delete vm "+ref, err)
	}
	defer j.close()
	return obliterate(ctx, j)
}

// obliterate takes away the job's VM with all it has.
func obliterate(ctx context.Context, j *job) error {
	doing := "delete vm " + j.vm.Spec.Name
	if err := j.begin(ctx, banger.Op{Kind: banger.OpDelete, Begun: everything}, banger.Deleting, "asked to delete"); err != nil {
		return surface(j.op.ID, doing, err)
	}
	if err := j.unwind(ctx, "deleted"); err != nil {
		j.e.later(j.r)
		return surface(j.op.ID, doing, err)
	}
	return nil
}

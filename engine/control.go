package engine

import (
	"context"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger"
)

// Control implements banger.VMControl on an engine.
type Control struct{ *Engine }

var _ banger.VMControl = Control{}

// CreateVMAs is CreateVM as the operation op, an id of NewID's.
func (c Control) CreateVMAs(ctx context.Context, op string, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
	return create(ctx, c.Engine, op, spec, start, p)
}

// A VMM that was sent a signal that ends it must have ended within this.
const killTime = 10 * time.Second

// KillVM signals the VMM. It doesn't wait for the operation that has the VM: a
// stop that takes too long is what it is for.
func (c Control) KillVM(ctx context.Context, ref, signal string) (banger.VM, error) {
	signal = strings.TrimPrefix(strings.ToUpper(signal), "SIG")
	if !slices.Contains(banger.Signals(), signal) {
		return banger.VM{}, banger.Errorf(banger.CodeInvalid, "the signal %q can't be sent to a VM", signal).
			WithHint("there are %s", strings.Join(banger.Signals(), ", "))
	}
	r, err := c.find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	vm := c.seen(r)
	if vm.Held.VMM.PID == 0 {
		return banger.VM{}, notRunning(vm)
	}
	signaled := &job{e: c.Engine, r: r, vm: vm, op: banger.Op{ID: c.NewID()}}
	doing := "kill vm " + vm.Spec.Name
	if err := c.Processes.Signal(vm.Held.VMM, signal); err != nil {
		return banger.VM{}, surface(signaled.op.ID, doing, err)
	}
	note(signaled, "signal", signal)
	if signal == "STOP" || signal == "CONT" {
		return vm, nil
	}
	j, err := c.open(ctx, r, nil)
	if err != nil {
		return banger.VM{}, surface(signaled.op.ID, doing, err)
	}
	defer j.close()
	if j.vm.State != banger.Running || j.vm.Boots != vm.Boots {
		return c.seen(r), nil // whoever had the VM saw to it
	}
	if err := c.killed(context.WithoutCancel(ctx), j, signal); err != nil {
		return banger.VM{}, surface(j.op.ID, doing, err)
	}
	return c.seen(r), nil
}

// killed waits for the VMM's end and takes the VM to Stopped.
func (c Control) killed(ctx context.Context, j *job, signal string) error {
	hv, err := c.hypervisor(j.vm)
	if err != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	exit, err := hv.Wait(bound, c.machine(j.vm), j.held())
	if err != nil {
		return banger.Errorf(banger.CodeTimeout, "it still runs %s after %s", killTime, signal).
			WithHint("banger vm kill %s", j.vm.Spec.Name)
	}
	c.unwatch(j.r, j.vm.Boots)
	if err := j.finish(ctx, *final(exit)); err != nil {
		c.later(j.r)
		return err
	}
	return nil
}

// RestartVM stops a VM and starts it again.
func (c Control) RestartVM(ctx context.Context, ref string, opt banger.StopOptions, p banger.Progress) (banger.VM, error) {
	r, err := c.find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	j, err := c.open(ctx, r, p)
	if err != nil {
		return banger.VM{}, surface("", "restart vm "+ref, err)
	}
	defer j.close()
	if j.vm.State == banger.Running {
		doing := "restart vm " + j.vm.Spec.Name
		if err := j.begin(ctx, banger.Op{Kind: banger.OpRestart, Begun: running, Cold: opt.Cold}, banger.Stopping, "asked to restart"); err != nil {
			return banger.VM{}, surface(j.op.ID, doing, err)
		}
		j.tell("stop", "")
		j.vm.Exit = rebootAsked(j.shutdown(context.WithoutCancel(ctx), opt), opt.Cold)
		if err := j.unwind(ctx, ended(j.vm.Exit)); err != nil {
			c.later(r)
			return banger.VM{}, surface(j.op.ID, doing, err)
		}
		j.op = banger.Op{ID: j.op.ID}
	}
	if opt.Cold {
		j.launch.cold = askedCold
	}
	if err := j.start(ctx); err != nil {
		return banger.VM{}, err
	}
	return c.seen(r), nil
}

// SetVM changes what a VM is. Only the record changes: every start makes the
// machine, and grows its disk, by the record.
func (c Control) SetVM(ctx context.Context, ref string, change banger.Change) (banger.VM, error) {
	r, err := c.find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	j, err := c.open(ctx, r, nil)
	if err != nil {
		return banger.VM{}, surface("", "set vm "+ref, err)
	}
	defer j.close()
	doing := "set vm " + j.vm.Spec.Name
	if j.vm.State != banger.Stopped && j.vm.State != banger.Running || j.op.Kind != "" {
		return banger.VM{}, surface(j.op.ID, doing, banger.Errorf(banger.CodeConflict, "it is %s: %s", j.vm.State, j.vm.Reason))
	}
	spec, err := changed(j.vm.Spec, change)
	if err == nil {
		err = validate(c.Engine, spec)
	}
	if err != nil {
		return banger.VM{}, surface(j.op.ID, doing, err)
	}
	if spec == j.vm.Spec {
		return c.seen(r), nil
	}
	j.vm.Spec, j.vm.NeedsRestart = spec, j.vm.State == banger.Running
	if err := j.done(ctx); err != nil {
		return banger.VM{}, surface(j.op.ID, doing, err)
	}
	note(j, "set", "")
	return c.seen(r), nil
}

func changed(s banger.Spec, change banger.Change) (banger.Spec, error) {
	if change == (banger.Change{}) {
		return s, banger.Errorf(banger.CodeInvalid, "nothing is to be changed").WithHint("say what: name, CPUs, memory or disk size")
	}
	if change.DiskMiB != 0 && change.DiskMiB < s.DiskMiB {
		return s, banger.Errorf(banger.CodeInvalid, "its disk has %d MiB and can only grow, not become %d", s.DiskMiB, change.DiskMiB)
	}
	if change.Name != "" {
		s.Name = change.Name
	}
	for _, f := range []struct {
		field *int
		value int
	}{{&s.VCPU, change.VCPU}, {&s.MemoryMiB, change.MemoryMiB}, {&s.DiskMiB, change.DiskMiB}} {
		if f.value != 0 {
			*f.field = f.value
		}
	}
	return s, nil
}

// PruneVM deletes a VM that is stopped.
func (c Control) PruneVM(ctx context.Context, ref string) error {
	r, err := c.find(ref)
	if err != nil {
		return err
	}
	j, err := c.open(ctx, r, nil)
	if err != nil {
		return surface("", "prune vm "+ref, err)
	}
	defer j.close()
	if j.vm.State != banger.Stopped || j.op.Kind != "" || rebooting(j.vm) {
		return surface(j.op.ID, "prune vm "+j.vm.Spec.Name, banger.Errorf(banger.CodeConflict, "it is %s, not stopped", j.vm.State))
	}
	return obliterate(ctx, j)
}

// StatsVM says what a VM uses.
func (c Control) StatsVM(_ context.Context, ref string) (banger.Stats, error) {
	r, err := c.find(ref)
	if err != nil {
		return banger.Stats{}, err
	}
	vm := c.seen(r)
	st := banger.Stats{ID: vm.ID, Name: vm.Spec.Name, State: vm.State, Time: c.Now()}
	if vm.Held.VMM.PID != 0 {
		st.Usage, err = c.Processes.Usage(vm.Held.VMM)
		if err != nil && banger.CodeOf(err) != banger.CodeNotRunning { // it ended a moment ago
			return banger.Stats{}, surface("", "stats of vm "+vm.Spec.Name, err)
		}
	}
	st.Disk, err = allocated(c.dir(vm.ID))
	return st, surface("", "stats of vm "+vm.Spec.Name, err)
}

// allocated is what the files of a directory take on their filesystem.
func allocated(dir string) (int64, error) {
	var bytes int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += st.Blocks * 512 // stat(2): blocks are of 512 bytes whatever the filesystem's
			}
		}
		return nil
	})
	return bytes, err
}

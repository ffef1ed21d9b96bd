package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"banger"
	"banger/daemon/engine/fleet"
	"banger/daemon/engine/names"
)

// CreateVM makes a VM and, with start, runs it.
func (e *Engine) CreateVM(ctx context.Context, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
	return e.CreateVMAs(ctx, e.NewID(), spec, start, p)
}

// CreateVMAs is CreateVM as the operation op, an id of NewID's.
func (e *Engine) CreateVMAs(ctx context.Context, op string, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
	vm, err := e.specified(ctx, spec, p)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return banger.VM{}, surface(op, "create a vm", err)
	}
	vm.MadeBy = op
	return e.work(ctx, fleet.New(vm), "create a vm", p, func(ctx context.Context, j *job) error {
		j.ID, j.doing = op, "create a vm"
		if err := j.reserve(ctx, spec.Name); err != nil {
			return err
		}
		j.doing = "create vm " + j.VM.Spec.Name
		return j.create(ctx, start)
	})
}

// specified returns a new VM that isn't recorded yet, or an error if spec can't be met.
func (e *Engine) specified(ctx context.Context, spec banger.Spec, p banger.Progress) (vm banger.VM, err error) {
	vm = banger.VM{ID: e.NewID(), Created: e.Now()}
	spec.Net, spec.DiskDriver = cmp.Or(spec.Net, e.Defaults.Net), cmp.Or(spec.DiskDriver, e.Defaults.Disk)
	chosen, note, err := e.choose(ctx, spec)
	if err != nil {
		return vm, err
	}
	vm.Spec = e.Defaults.fill(chosen)
	if err = e.validate(vm.Spec); err == nil {
		err = e.room(vm.Spec)
	}
	if err == nil && note != "" && p != nil {
		p(banger.Event{Stage: banger.StageNote, Message: note, Time: e.Now()})
	}
	if err == nil {
		var img banger.Image
		img, vm.KernelID, err = e.Catalog.Resolve(ctx, vm.Spec.Image, vm.Spec.Kernel, p)
		vm.ImageID, vm.Config = img.ID, img.Config.Running()
	}
	return vm, err
}

// reserve records the VM, with its name and its address. Nothing else is made yet.
func (j *job) reserve(ctx context.Context, name string) (err error) {
	// Nobody else may allocate until this is recorded: the record reserves address and ports.
	j.e.allocating.Lock()
	defer j.e.allocating.Unlock()
	if j.VM.Spec.Ports, err = banger.Publish(nil, j.VM.Spec.Ports, nil); err == nil {
		j.VM.Spec.Ports, err = names.Ports{Host: j.e.Ports, VMs: j.e.fleet.All()}.Choose(j.VM.ID, j.VM.Spec.Ports, nil)
	}
	if err != nil {
		return err
	}
	if n := j.e.Networks[j.VM.Spec.Net]; n != nil {
		var taken []banger.NetConfig
		for _, vm := range j.e.fleet.All() {
			taken = append(taken, vm.Net)
		}
		if j.VM.Net, err = n.Allocate(taken); err != nil {
			return fmt.Errorf("allocate an address: %w", err)
		}
	}
	j.Plan = banger.Plan{ID: j.ID, Subjects: []string{j.VM.ID}, Kind: banger.PlanCreate, Direction: banger.Back, Begun: slices.Clone(lasting), Opened: j.VM.Created}
	if err = j.VM.Advance(banger.Creating, ""); err == nil {
		err = j.name(ctx, name)
	}
	if banger.CodeOf(err) == banger.CodeInternal { // else it was refused: nothing was written
		return j.fail(ctx, err)
	}
	return err
}

// name records the VM, durably, under the name asked for, else under the first generated
// name that is free.
func (j *job) name(ctx context.Context, asked string) error {
	for try := 0; ; try++ {
		j.VM.Spec.Name = cmp.Or(asked, names.For(j.VM.ID, try))
		err := j.Save(ctx, true)
		if asked != "" || banger.CodeOf(err) != banger.CodeConflict || try == 100 {
			return err
		}
	}
}

func (j *job) create(ctx context.Context, start bool) error {
	j.tell(banger.StageSpec, names.Words(j.VM.Spec))
	j.runs = start
	err := j.build(ctx, func(ctx context.Context) error {
		if err := j.Do(ctx, j.steps()[:len(lasting)]...); err != nil {
			return err
		}
		if err := j.VM.Advance(banger.Stopped, "created"); err != nil || !start {
			return err
		}
		return j.run(ctx)
	})
	if err == nil {
		j.e.fleet.Arm(j.Record)
	}
	return err
}

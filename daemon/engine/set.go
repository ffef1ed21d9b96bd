package engine

import (
	"cmp"
	"context"
	"slices"

	"banger"
	"banger/daemon/engine/names"
)

// SetVM changes a VM's record. Every start makes the machine, and grows its disk, by the
// record.
func (e *Engine) SetVM(ctx context.Context, ref string, change banger.Change) (banger.VM, error) {
	return e.turn(ctx, ref, "set", nil, func(ctx context.Context, j *job) error {
		if j.VM.State != banger.Stopped && j.VM.State != banger.Running || j.Kind != "" {
			return banger.Errorf(banger.CodeConflict, "it is %s: %s", j.VM.State, j.VM.Reason)
		}
		spec, err := changed(j.VM.Spec, change)
		kernel := j.VM.KernelID
		if err == nil {
			spec, kernel, err = j.moved(ctx, spec)
		}
		if err == nil {
			err = e.validate(spec)
		}
		same := changeable(spec) == changeable(j.VM.Spec)
		if err == nil && (change.Publish != nil || change.Unpublish != nil) {
			j.e.allocating.Lock()
			defer j.e.allocating.Unlock()
			spec.Ports, err = names.Ports{Host: j.e.Ports, VMs: j.e.fleet.All()}.Choose(j.VM.ID, spec.Ports, j.VM.Spec.Ports)
		}
		published := slices.Equal(spec.Ports, j.VM.Spec.Ports)
		if err == nil && change.Repository != nil {
			err = change.Repository.Check()
		}
		if err != nil || same && published && change.TTLMS == nil && change.IdleStopMS == nil && change.Repository == nil && change.Workspace == "" {
			return err
		}
		j.VM.KernelID = kernel
		if change.Repository != nil {
			j.VM.Repository = change.Repository
			if j.VM.State == banger.Running {
				j.unseen()
			}
		}
		if change.TTLMS != nil {
			j.VM.Ends = spec.Ends(j.e.Now())
		}
		err = j.republish(ctx, spec.Ports, func() error {
			j.VM.Spec, j.VM.NeedsRestart = spec, j.VM.State == banger.Running && (j.VM.NeedsRestart || !same)
			return j.Done(ctx)
		})
		if err != nil {
			return err
		}
		if !same || !published || change.TTLMS != nil || change.IdleStopMS != nil { // that files went in is no news of the VM's settings
			j.Note("set", "")
		}
		return nil
	})
}

// changeable is what of a spec a change may change, but for times.
func changeable(s banger.Spec) banger.Change {
	return banger.Change{Name: s.Name, VCPU: s.VCPU, MemoryMiB: s.MemoryMiB, DiskMiB: s.DiskMiB, Isolation: s.Isolation, Hypervisor: s.Hypervisor}
}

// moved returns the spec of a VM that is to run on something else or otherwise, checked, and the
// kernel that runs there: fetched if it isn't here.
func (j *job) moved(ctx context.Context, s banger.Spec) (banger.Spec, string, error) {
	was := j.VM.Spec
	moves := s.Hypervisor != was.Hypervisor || s.Isolation != was.Isolation
	if moves && j.VM.State != banger.Stopped {
		return s, "", banger.Errorf(banger.CodeConflict, "it is %s: only a stopped VM can be moved", j.VM.State).
			WithHint("banger vm stop %s", was.Name)
	}
	if !moves && (s.Isolation != banger.ByProcess || s.VCPU == was.VCPU) { // what it can't have there is refused
		return s, j.VM.KernelID, nil
	}
	asked := s
	if moves {
		asked.Kernel = ""
	}
	s, _, err := j.e.choose(ctx, asked)
	if err != nil || s.Hypervisor == was.Hypervisor {
		s.Kernel = was.Kernel
		return s, j.VM.KernelID, err
	}
	s = j.e.Defaults.fill(s)
	_, kernel, err := j.e.Catalog.Resolve(ctx, j.VM.ImageID, s.Kernel, nil)
	return s, kernel, err
}

func changed(s banger.Spec, change banger.Change) (banger.Spec, error) {
	if change == (banger.Change{}) {
		return s, banger.Errorf(banger.CodeInvalid, "there is nothing to change").WithHint("name what to change: --name, --vcpu, --memory, --disk-size, --isolation, --publish, --unpublish, --ttl or --idle-stop")
	}
	if change.DiskMiB != 0 && change.DiskMiB < s.DiskMiB {
		return s, banger.Errorf(banger.CodeInvalid, "its disk has %d MiB and can only grow, not become %d", s.DiskMiB, change.DiskMiB)
	}
	if change.Isolation != "" || change.Hypervisor != "" { // the one says the other
		s.Isolation, s.Hypervisor = change.Isolation, change.Hypervisor
	}
	s.Name, s.VCPU = cmp.Or(change.Name, s.Name), cmp.Or(change.VCPU, s.VCPU)
	s.MemoryMiB, s.DiskMiB = cmp.Or(change.MemoryMiB, s.MemoryMiB), cmp.Or(change.DiskMiB, s.DiskMiB)
	s.Workspace = cmp.Or(change.Workspace, s.Workspace)
	if change.Publish != nil || change.Unpublish != nil {
		var none []banger.Published
		var err error
		if s.Ports, err = banger.Publish(s.Ports, *cmp.Or(change.Publish, &none), *cmp.Or(change.Unpublish, &none)); err != nil {
			return s, err
		}
	}
	s.TTLMS, s.IdleStopMS = *cmp.Or(change.TTLMS, &s.TTLMS), *cmp.Or(change.IdleStopMS, &s.IdleStopMS)
	return s, nil
}

package engine

import (
	"cmp"
	"context"

	"banger"
)

// SetVM changes a VM's record. Every start makes the machine, and grows its disk, by the
// record.
func (e *Engine) SetVM(ctx context.Context, ref string, change banger.Change) (banger.VM, error) {
	return e.turn(ctx, ref, "set", nil, func(ctx context.Context, j *job) error {
		if j.VM.State != banger.Stopped && j.VM.State != banger.Running || j.Kind != "" {
			return banger.Errorf(banger.CodeConflict, "it is %s: %s", j.VM.State, j.VM.Reason)
		}
		spec, err := changed(j.VM.Spec, change)
		if err == nil {
			err = e.validate(spec)
		}
		same := changeable(spec) == changeable(j.VM.Spec)
		if err != nil || same && change.TTLMS == nil && change.IdleStopMS == nil {
			return err
		}
		if change.TTLMS != nil {
			j.VM.Ends = spec.Ends(j.e.Now())
		}
		j.VM.Spec, j.VM.NeedsRestart = spec, j.VM.State == banger.Running && (j.VM.NeedsRestart || !same)
		if err := j.Done(ctx); err != nil {
			return err
		}
		j.Note("set", "")
		return nil
	})
}

// changeable is what of a spec a change may change, but for times.
func changeable(s banger.Spec) banger.Change {
	return banger.Change{Name: s.Name, VCPU: s.VCPU, MemoryMiB: s.MemoryMiB, DiskMiB: s.DiskMiB}
}

func changed(s banger.Spec, change banger.Change) (banger.Spec, error) {
	if change == (banger.Change{}) {
		return s, banger.Errorf(banger.CodeInvalid, "there is nothing to change").WithHint("say what: name, CPUs, memory, disk size or times")
	}
	if change.DiskMiB != 0 && change.DiskMiB < s.DiskMiB {
		return s, banger.Errorf(banger.CodeInvalid, "its disk has %d MiB and can only grow, not become %d", s.DiskMiB, change.DiskMiB)
	}
	s.Name, s.VCPU = cmp.Or(change.Name, s.Name), cmp.Or(change.VCPU, s.VCPU)
	s.MemoryMiB, s.DiskMiB = cmp.Or(change.MemoryMiB, s.MemoryMiB), cmp.Or(change.DiskMiB, s.DiskMiB)
	s.TTLMS, s.IdleStopMS = *cmp.Or(change.TTLMS, &s.TTLMS), *cmp.Or(change.IdleStopMS, &s.IdleStopMS)
	return s, nil
}

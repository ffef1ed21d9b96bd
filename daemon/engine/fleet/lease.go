package fleet

import (
	"context"

	"banger"
)

// Hold keeps a lease on a VM until ctx ends, and calls held once the lease has begun.
func (f *Fleet) Hold(ctx context.Context, ref string, held func()) error {
	r, err := f.Find(ref)
	if err != nil {
		return err
	}
	f.mu.Lock()
	if r.gone || r.holders == abandoned || r.vm.State == banger.Deleting {
		f.mu.Unlock()
		return banger.Errorf(banger.CodeNotFound, "vm %s is being deleted", r.vm.Spec.Name)
	}
	r.holders++
	if r.lease != nil {
		r.lease.Stop()
		r.lease = nil
	}
	f.mu.Unlock()
	if held != nil {
		held()
	}
	select {
	case <-ctx.Done():
	case <-f.ctx.Done():
	}
	f.mu.Lock()
	r.holders--
	f.mu.Unlock()
	f.Arm(r)
	return nil
}

// Arm starts the countdown of a VM with Spec.Remove that nobody has a lease on. A restarted
// daemon begins it anew, since the client may come back.
func (f *Fleet) Arm(r *Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !r.vm.Spec.Remove || r.holders != 0 || r.lease != nil || r.gone || r.refused != nil || r.vm.State == banger.Deleting || f.ctx.Err() != nil {
		return
	}
	r.lease = f.after(f.Lease, func(ctx context.Context) { f.expire(ctx, r) })
}

// abandoned is the number of holders of a VM on which no lease can begin any more.
const abandoned = -1

// expire deletes a VM without a lease, unless a new lease began while this waited for the
// VM's turn.
func (f *Fleet) expire(ctx context.Context, r *Record) {
	_ = f.Take(ctx, r, func(t *Turn) error { // an error means that it is gone, or waits for the next lease
		f.mu.Lock()
		free := r.holders == 0
		if free {
			r.holders = abandoned
		}
		f.mu.Unlock()
		if !free {
			return nil
		}
		f.Log.Info("nobody holds this --rm vm any more, deleting it", "vm", r.id)
		err := f.Expire(ctx, t)
		if err != nil {
			f.Log.Error("delete a --rm vm", "vm", r.id, "error", err)
		}
		return err
	})
	f.mu.Lock()
	r.lease, r.holders = nil, max(r.holders, 0)
	f.mu.Unlock()
	f.Arm(r)
}

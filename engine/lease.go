package engine

import (
	"context"

	"banger"
)

// HoldVM keeps a VM with Spec.Remove alive while ctx lives.
func (e *Engine) HoldVM(ctx context.Context, ref string) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	e.mu.Lock()
	r.holders++
	if r.lease != nil {
		r.lease.Stop()
		r.lease = nil
	}
	e.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-e.ctx.Done():
	}
	e.mu.Lock()
	r.holders--
	e.mu.Unlock()
	e.arm(r)
	return nil
}

// arm starts the countdown of a VM that belongs to a client nobody has heard
// of. A restarted daemon begins it anew: the client may be on its way back.
func (e *Engine) arm(r *record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !r.vm.Spec.Remove || r.holders > 0 || r.lease != nil || r.gone || e.closed {
		return
	}
	r.lease = e.after(e.Defaults.Lease, func(ctx context.Context) { e.expire(ctx, r) })
}

// expire deletes a VM whose lease ran out.
func (e *Engine) expire(ctx context.Context, r *record) {
	e.mu.Lock()
	held := r.holders > 0 || r.gone
	id := r.vm.ID
	r.lease = nil
	e.mu.Unlock()
	if held {
		return
	}
	e.Log.Info("nobody holds this --rm vm any more, deleting it", "vm", id)
	if err := e.DeleteVM(ctx, id); err != nil && banger.CodeOf(err) != banger.CodeNotFound {
		e.Log.Error("delete a --rm vm", "vm", id, "error", err)
	}
}

package api

import (
	"context"

	"banger"
)

// KillVM implements banger.VMControl.
func (c vms) KillVM(ctx context.Context, ref, signal string) (banger.VM, error) {
	var vm banger.VM
	err := c.callRepeated(ctx, "POST", vmPath(ref, "kill"), KillVMRequest{signal}, &vm, nil)
	return vm, err
}

// RestartVM implements banger.VMControl. It isn't repeated: when the daemon goes away
// the next one finishes the restart, and nobody asked for a second one.
func (c vms) RestartVM(ctx context.Context, ref string, opt banger.StopOptions, p banger.Progress) (banger.VM, error) {
	var vm banger.VM
	err := c.call(ctx, "POST", vmPath(ref, "restart"), RestartVMRequest{stopRequest(opt), opt.Cold}, &vm, p)
	return vm, hintLost(err, "the next daemon finishes the restart: `banger ps` shows the VM's state")
}

// SetVM implements banger.VMControl.
func (c vms) SetVM(ctx context.Context, ref string, change banger.Change) (banger.VM, error) {
	var vm banger.VM
	repeated, err := repeat(ctx, func() error { return c.call(ctx, "PATCH", vmPath(ref), change, &vm, nil) })
	if repeated && change.Name != "" && banger.CodeOf(err) == banger.CodeNotFound {
		return c.VM(ctx, change.Name) // it was renamed before the daemon went away
	}
	return vm, err
}

// PruneVM implements banger.VMControl.
func (c vms) PruneVM(ctx context.Context, ref string) error {
	repeated, err := repeat(ctx, func() error { return c.call(ctx, "POST", vmPath(ref, "prune"), nil, nil, nil) })
	if repeated && banger.CodeOf(err) == banger.CodeNotFound {
		return nil // as in DeleteVM
	}
	return err
}

// StatsVM implements banger.VMControl.
func (c vms) StatsVM(ctx context.Context, ref string) (banger.Stats, error) {
	return got[banger.Stats](ctx, c.Client, vmPath(ref, "stats"))
}

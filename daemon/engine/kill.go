package engine

import (
	"context"
	"slices"
	"strings"
	"time"

	"banger"
)

// killTime is how long a VMM may take to end after a signal that ends it.
const killTime = 10 * time.Second

// KillVM signals the VMM. It doesn't wait for a verb that works on the VM: its purpose is to
// end a stop that takes too long.
func (e *Engine) KillVM(ctx context.Context, ref, signal string) (banger.VM, error) {
	signal = strings.TrimPrefix(strings.ToUpper(signal), "SIG")
	if !slices.Contains(banger.Signals(), signal) {
		return banger.VM{}, banger.Errorf(banger.CodeInvalid, "the signal %q can't be sent to a VM", signal).
			WithHint("there are %s", strings.Join(banger.Signals(), ", "))
	}
	r, err := e.fleet.Find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	vm, op := e.fleet.Seen(r), e.NewID()
	if vm.Held.VMM.PID == 0 {
		return banger.VM{}, notRunning(vm)
	}
	if err = e.fleet.Refused(r); err == nil {
		err = e.Processes.Signal(vm.Held.VMM, signal)
	}
	if err != nil {
		return banger.VM{}, surface(op, "kill vm "+vm.Spec.Name, err)
	}
	e.fleet.Note(op, vm, "signal", signal)
	if signal == "STOP" || signal == "CONT" {
		return vm, nil
	}
	killed, err := e.turn(ctx, vm.ID, "kill", nil, func(ctx context.Context, j *job) error {
		if j.VM.State != banger.Running || j.VM.Boots != vm.Boots {
			return nil // the verb before us has handled it
		}
		hv, err := e.hypervisor(j.VM)
		if err != nil {
			return err
		}
		bound, cancel := context.WithTimeout(e.fleet.Context(), killTime)
		defer cancel()
		exit, err := hv.Wait(bound, e.machine(j.VM), j.Held())
		if err != nil {
			return banger.Errorf(banger.CodeTimeout, "it still runs %s after %s", killTime, signal).
				WithHint("banger vm kill %s", j.VM.Spec.Name)
		}
		return j.finish(ctx, exit, true)
	})
	if banger.CodeOf(err) == banger.CodeNotFound { // deleted meanwhile, so it has ended
		vm.State, vm.Reason = banger.Gone, "killed, then deleted"
		return vm, nil
	}
	return killed, err
}

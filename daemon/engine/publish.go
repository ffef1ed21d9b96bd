package engine

import (
	"context"
	"slices"

	"banger"
)

// publish has the VM's running machine publish these ports and no others.
func (j *parts) publish(ctx context.Context, ports []banger.Published, held []banger.Socket) error {
	hv, err := j.e.hypervisor(j.VM)
	if err != nil {
		return err
	}
	publisher, ok := hv.(banger.Publisher)
	if !ok {
		return banger.Errorf(banger.CodeInvalid, "the hypervisor %q publishes no ports", j.VM.Spec.Hypervisor)
	}
	m := j.e.machine(j.VM)
	m.Ports = ports
	return publisher.Publish(ctx, m, held)
}

// republish publishes other ports of a running VM and records them by done. If either fails, a shim may have done it: those of before are published again.
func (j *job) republish(ctx context.Context, ports []banger.Published, done func() error) error {
	was := j.VM.Spec.Ports
	if j.VM.State != banger.Running || slices.Equal(was, ports) {
		return done()
	}
	err := j.publish(ctx, ports, nil)
	if err == nil {
		err = done()
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
		defer cancel()
		if perr := j.publish(undo, was, nil); perr != nil {
			j.e.Log.Warn("the ports of before weren't published again", "vm", j.VM.ID, "error", perr)
		}
	}
	return err
}

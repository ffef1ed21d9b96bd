package banger

import "context"

// Leases tie a VM with Spec.Remove to the clients that need it. Engine and API
// client implement it.
type Leases interface {
	// HoldVM keeps the VM alive while ctx lives and returns nil when ctx ends.
	// When nobody has held such a VM for a while (30 s unless configured), it is
	// deleted; a restarted daemon counts anew, so that clients can come back.
	// Holding a VM without Remove is allowed and changes nothing.
	HoldVM(ctx context.Context, ref string) error
}

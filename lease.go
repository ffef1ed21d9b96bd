package banger

import "context"

// Leases tie a VM with Spec.Remove to the clients that need it. Engine and API
// client implement it.
type Leases interface {
	// HoldVM holds a lease on the VM until ctx ends, and then returns nil. It calls
	// held, unless nil, each time the lease begins: again after a daemon's restart.
	// CodeNotFound: the VM is gone, or about to be.
	//
	// When nobody has had a lease on such a VM for a while (30 s unless configured),
	// it is deleted; a restarted daemon counts anew, so that clients can come back.
	// A lease on a VM without Remove is allowed and changes nothing.
	HoldVM(ctx context.Context, ref string, held func()) error
}

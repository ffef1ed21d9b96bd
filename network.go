package banger

import "context"

// Link is one VM's connection to its network: all that a driver must know to make
// it. It is plain data, so that it could be sent to a privileged helper over a socket.
type Link struct {
	VM  string    `json:"vm"` // VM id
	Net NetConfig `json:"net"`
}

// Networks connects VMs to a network of the host. Every method is safe to repeat
// after a crash of the caller at any instant. What it makes is named after the VM's
// id; nothing else is ever touched.
type Networks interface {
	// Allocate returns a guest's side of the network, with an address that none of
	// taken has. It changes nothing: the caller records it, and that reserves it.
	// CodeUnavailable when there is no address left.
	Allocate(taken []NetConfig) (NetConfig, error)
	// Set makes the link on the host, whatever was there before, and returns its
	// NetHandles. A second call mends what somebody changed in between. After an
	// error a part of it may be left: CleanUp removes it.
	Set(ctx context.Context, link Link) (Handles, error)
	// CleanUp removes what Set makes for a VM. It is told by the VM's id; held only
	// helps to find it. CleanUp returns what was not seen gone: empty on success. It
	// succeeds for a VM that never had a link.
	CleanUp(ctx context.Context, id string, held Handles) (Handles, error)
}

// KernelObjects finds a driver's objects in the host's kernel. Drivers of disks and
// networks that make such objects implement it.
type KernelObjects interface {
	// Objects returns all objects under our names. Those that only look like ours
	// have the claim Foreign; the claim of the others is empty.
	Objects(ctx context.Context) ([]Found, error)
	// RemoveObjects removes the objects of a VM that has no record any more.
	RemoveObjects(ctx context.Context, id string) error
}

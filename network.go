package banger

import "context"

// Link is one VM's connection to its network: all that its host must have for
// it. Plain data, complete, so that a privileged helper could take it over a
// socket.
type Link struct {
	VM  string    `json:"vm"` // VM id
	Net NetConfig `json:"net"`
}

// Networks connects VMs to a network of the host. Every method is safe to repeat
// after a crash of the caller at any instant. Names derive from the VM's id;
// what doesn't carry them is never touched.
type Networks interface {
	// Allocate returns a guest's side of the network, with an address that none of
	// taken has. It touches nothing: the allocation is the caller's record of it.
	// CodeUnavailable when there is no address left.
	Allocate(taken []NetConfig) (NetConfig, error)
	// Set makes the host be as the link wants it, whatever was there, and returns
	// NetHandles. Done again it changes nothing, unless somebody else did. On error,
	// what it made may be there: CleanUp removes it.
	Set(ctx context.Context, link Link) (Handles, error)
	// CleanUp removes what Set makes for a VM, going by its id: held only helps to
	// find it. It returns what was not seen gone: empty on success. Of a VM that
	// never was, nothing is left either.
	CleanUp(ctx context.Context, id string, held Handles) (Handles, error)
}

// KernelObjects finds what a driver's objects in the host's kernel are. Drivers
// of disks and networks that make such objects implement it.
type KernelObjects interface {
	// Objects returns all there are under our names, and those that only look so:
	// those are Foreign, the claim of the others is empty.
	Objects(ctx context.Context) ([]Found, error)
	// RemoveObjects removes those of a VM that nobody knows any more.
	RemoveObjects(ctx context.Context, id string) error
}

package banger

import "context"

// Store is the durable memory: intent, and what can't be asked again or
// derived. One daemon at a time has it open. Everything returned is a copy.
//
// A write survives the death of the process when it returns; it survives a
// power cut only where that is said. After a power cut the kernel's objects
// are gone anyway, and recovery treats older records as it treats newer ones.
type Store interface {
	// VMs returns all VMs, oldest first.
	VMs(ctx context.Context) ([]VM, error)
	// Ops returns the operations in flight, at most one for each VM, oldest first.
	Ops(ctx context.Context) ([]Op, error)
	// Commit records a VM together with the operation in flight on it, nil for
	// none, whole or not at all. A VM whose state is Gone is removed with its
	// operation. With durable it also survives a power cut, and everything
	// committed before with it.
	//
	// CodeConflict: another live VM (any that isn't Deleting) has the name.
	// CodeNotFound: the VM is new and its image or kernel isn't recorded.
	Commit(ctx context.Context, vm VM, op *Op, durable bool) error

	Shelf
}

// Shelf is the part of the store that VMs are made from.
type Shelf interface {
	// Images returns all image names, by name. One image may have several.
	Images(ctx context.Context) ([]Image, error)
	// PutImage gives an image a name, durably. A name that another image has is
	// CodeConflict, or moves with replace; an image that loses its last name while
	// a VM uses it stays, named by its id.
	PutImage(ctx context.Context, img Image, replace bool) error
	// DeleteImage removes a name, durably. CodeNotFound when there is none,
	// CodeConflict when it is the last name of an image that a VM uses.
	DeleteImage(ctx context.Context, name string) error

	// Kernels returns all kernels, oldest first; of several with one name the
	// last is current.
	Kernels(ctx context.Context) ([]Kernel, error)
	// PutKernel records a kernel, durably; the same id again replaces it.
	PutKernel(ctx context.Context, k Kernel) error
	// DeleteKernel forgets a kernel, durably. CodeNotFound when there is none,
	// CodeConflict while a VM uses it.
	DeleteKernel(ctx context.Context, id string) error
}

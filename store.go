package banger

import "context"

// Store keeps what must survive the daemon: what users asked for, plans, and what
// can't be found out again. One daemon at a time has it open. Everything returned is
// a copy.
//
// Once a write has returned, it survives the death of the process. It survives a
// power cut only where a comment says so: recovery copes with older records, too,
// since after a power cut the kernel's objects are gone in any case.
type Store interface {
	// VMs returns all VMs, oldest first.
	VMs(ctx context.Context) ([]VM, error)
	// Plans returns all plans, oldest first. A VM is the subject of one at most.
	Plans(ctx context.Context) ([]Plan, error)
	// Commit records VMs together with the plan whose subjects they are, in one
	// transaction. plan replaces the plan they had; nil: they have none from now on.
	// A VM whose state is Gone is removed. With durable, this and all earlier commits
	// survive a power cut.
	//
	// CodeConflict: another live VM (any that isn't Deleting) has a name of theirs.
	// CodeNotFound: a VM is new and its image or kernel isn't recorded.
	Commit(ctx context.Context, vms []VM, plan *Plan, durable bool) error

	Shelf
}

// Shelf is the part of the store that VMs are made from.
type Shelf interface {
	// Images returns all image names, by name. One image may have several.
	Images(ctx context.Context) ([]Image, error)
	// PutImage gives an image a name, durably. A name that another image has is
	// CodeConflict; with replace it moves to this one. An image that loses its last
	// name while a VM uses it gets one from NameOfImage.
	PutImage(ctx context.Context, img Image, replace bool) error
	// DeleteImage removes a name, durably. CodeNotFound when there is none,
	// CodeConflict when it is the last name of an image that a VM uses.
	DeleteImage(ctx context.Context, name string) error

	// Kernels returns all kernels, oldest first. Of several with one name, new VMs
	// get the last.
	Kernels(ctx context.Context) ([]Kernel, error)
	// PutKernel records a kernel, durably; the same id again replaces it.
	PutKernel(ctx context.Context, k Kernel) error
	// DeleteKernel forgets a kernel, durably. CodeNotFound when there is none,
	// CodeConflict while a VM uses it.
	DeleteKernel(ctx context.Context, id string) error
}

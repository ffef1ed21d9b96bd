package banger

import "context"

// Disks makes the writable disks of VMs: each holds an ext4 filesystem that
// the guest grows online to the size of its device.
//
// Every method is safe to repeat after a crash of the caller at any instant.
type Disks interface {
	// Create makes the disk of a VM in its directory and returns the path of the
	// file that holds it. Made twice, the second call returns the first one's disk
	// untouched. The cost doesn't depend on the size.
	Create(ctx context.Context, dir string, sizeMiB int) (path string, err error)
	// Grow enlarges a disk; a smaller size is CodeInvalid. A disk that is attached
	// has its new size when it is attached the next time, at the latest.
	Grow(ctx context.Context, dir string, sizeMiB int) error
	// Attach makes the disk of the VM with this id something a VMM can open, and
	// returns its path and the DiskHandles that the host's kernel now has for it.
	// Attached twice, the second call returns what the first one made. On error,
	// what it made may be there: Detach removes it.
	Attach(ctx context.Context, id, dir string) (path string, h Handles, err error)
	// Detach undoes Attach, once no VMM uses the disk: one that is still busy after
	// a while is CodeUnavailable. It goes by the VM's id and directory: held only
	// helps to find things. It returns what was not seen gone: empty on success.
	// Detaching what never was attached succeeds.
	Detach(ctx context.Context, id, dir string, held Handles) (Handles, error)
	// Remove deletes it. Removing what never was succeeds.
	Remove(ctx context.Context, dir string) error
}

// Cloner is what Disks may be besides: a driver that makes disks with something
// on them.
type Cloner interface {
	// Clone is Create of a disk that is, to the byte, the file from. The cost is
	// that of the data in it, or nothing where the filesystem shares blocks.
	Clone(ctx context.Context, dir, from string) (path string, err error)
}

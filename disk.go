package banger

import "context"

// Disks makes the writable disks of VMs: each holds an ext4 filesystem that
// the guest grows online to the size of its device.
type Disks interface {
	// Create makes the disk of a VM in its directory and returns its path. Made
	// twice, the second call returns the first one's disk untouched. The cost
	// doesn't depend on the size.
	Create(ctx context.Context, dir string, sizeMiB int) (path string, err error)
	// Grow enlarges a disk; a smaller size is CodeInvalid.
	Grow(ctx context.Context, dir string, sizeMiB int) error
	// Remove deletes it. Removing what never was succeeds.
	Remove(ctx context.Context, dir string) error
}

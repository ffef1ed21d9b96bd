package banger

import (
	"context"
	"io"
)

// Disks makes the writable disks of VMs: each holds an ext4 filesystem that
// the guest grows online to the size of its device.
//
// Every method is safe to repeat after a crash of the caller at any instant.
type Disks interface {
	// Create makes the disk of a VM in its directory and returns the path of the
	// file that holds it. A second call returns the same disk, untouched. The time
	// it takes doesn't depend on the size.
	Create(ctx context.Context, dir string, sizeMiB int) (path string, err error)
	// Grow enlarges a disk; a smaller size is CodeInvalid. An attached disk may keep
	// its old size until it is attached the next time.
	Grow(ctx context.Context, dir string, sizeMiB int) error
	// Attach prepares the disk of the VM with this id for a VMM. It returns the path
	// that the VMM opens and the DiskHandles that the host's kernel now has for it.
	// A second call returns what the first one made. After an error a part of it may
	// be left: Detach removes it.
	Attach(ctx context.Context, id, dir string) (path string, h Handles, err error)
	// Detach undoes Attach, once no VMM uses the disk. CodeUnavailable when the disk
	// stays busy. What belongs to it is told by the VM's id and directory; held only
	// helps to find it. Detach returns what was not seen gone: empty on success.
	// Detaching what was never attached succeeds.
	Detach(ctx context.Context, id, dir string, held Handles) (Handles, error)
	// Remove deletes the disk. Removing what isn't there succeeds.
	Remove(ctx context.Context, dir string) error
}

// Cloner is an optional interface of Disks: it makes a disk as a copy of a file.
type Cloner interface {
	// Clone is Create of a disk with the same bytes as the file from. It takes as
	// long as copying the data in it, or no time where the filesystem shares blocks.
	Clone(ctx context.Context, dir, from string) (path string, err error)
}

// DiskReader is an optional interface of Disks: it reads a disk that no VMM uses.
type DiskReader interface {
	// Read opens a disk of size bytes, until done is called.
	Read(ctx context.Context, dir string) (disk io.ReaderAt, size int64, done func(), err error)
}

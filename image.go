package banger

import (
	"context"
	"io"
	"time"
)

// Image is a root filesystem, read-only, shared by all VMs made from it.
type Image struct {
	ID      string    `json:"id"`      // 12 hex digits of the filesystem's sha256
	Name    string    `json:"name"`    // unique
	Size    int64     `json:"size"`    // bytes of the filesystem image
	Entries int       `json:"entries"` // files, directories, links, nodes in it
	Source  string    `json:"source"`  // where it came from, for a person
	Created time.Time `json:"created"`
}

// Kernel is a kernel with its modules, unpacked and ready to boot.
type Kernel struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`    // "debian-12-cloud"
	Version string    `json:"version"` // uname -r
	Source  string    `json:"source"`  // package and version, with its sha256
	Created time.Time `json:"created"`
}

// BootFiles are the paths a machine boots from.
type BootFiles struct {
	Vmlinux   string `json:"vmlinux"`   // uncompressed ELF kernel
	Initramfs string `json:"initramfs"` // ours: agent and boot modules
	Modules   string `json:"modules"`   // read-only filesystem image of /lib/modules/VERSION
}

// Images makes and keeps the filesystem images. It keeps files, not records:
// names and references are the store's.
type Images interface {
	// Import flattens a root tar into an image and publishes it under its content's
	// id, whole or not at all. Hostile or truncated input is CodeInvalid and names
	// the entry.
	Import(ctx context.Context, tar io.Reader, p Progress) (Image, error)
	// Path returns the image file of an id; CodeNotFound when it is missing.
	Path(id string) (string, error)
	// Remove deletes the file. Removing what isn't there succeeds.
	Remove(id string) error
}

// Kernels fetches kernels and keeps their files.
type Kernels interface {
	// Pull fetches, verifies and unpacks the kernel of a name ("debian-12-cloud").
	// One that is there already is returned as it is.
	Pull(ctx context.Context, name string, p Progress) (Kernel, error)
	// Boot returns the files a machine boots from, making the initramfs when the
	// agent changed since it was last made.
	Boot(ctx context.Context, id string) (BootFiles, error)
}

// Catalog is what the daemon offers for images and kernels; engine and API
// client implement it.
type Catalog interface {
	// ImportImage reads a root tar and names the image made of it. An existing
	// name is CodeConflict unless replace.
	ImportImage(ctx context.Context, name, source string, replace bool, tar io.Reader, p Progress) (Image, error)
	Images(ctx context.Context) ([]Image, error)
	// DeleteImage refuses with CodeConflict while a VM uses the image.
	DeleteImage(ctx context.Context, ref string) error
	// PullKernel fetches a kernel by name; empty: the default one.
	PullKernel(ctx context.Context, name string, p Progress) (Kernel, error)
	Kernels(ctx context.Context) ([]Kernel, error)
}

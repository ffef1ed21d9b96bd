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

	// Lock is what the image was made of, when it was built from packages. Lists of
	// images leave it out.
	Lock *Lock `json:"lock,omitempty"`
}

// Lock says which packages an image is made of. Building from it again gives
// the same packages, whatever the archive has by then.
type Lock struct {
	Suite    string    `json:"suite"` // "bookworm"
	Date     time.Time `json:"date"`  // of the archive's release file
	Packages []Package `json:"packages"`
}

// Package is one package of a distribution, by its content.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`           // "amd64", "all"
	Archive string `json:"archive"`        // "debian", "debian-security"
	Path    string `json:"path"`           // below the archive
	SHA256  string `json:"sha256"`         // of the package file, lower-case hex
	Size    int64  `json:"size"`           // of it, in bytes
	Auto    bool   `json:"auto,omitempty"` // only there because others need it
}

// UnfinishedImage begins the names of images that are only a step of a build.
const UnfinishedImage = "unfinished/"

// Recipe is what an image is built from.
type Recipe struct {
	Name     string   `json:"name"`               // the image's
	Suite    string   `json:"suite,omitempty"`    // "bookworm"; with Lock: empty
	Packages []string `json:"packages,omitempty"` // beside the essential ones; with Lock: none
	Lock     *Lock    `json:"lock,omitempty"`     // exactly these
	Snapshot string   `json:"snapshot,omitempty"` // where packages of a lock are that the mirror no longer has; empty: snapshot.debian.org
	Replace  bool     `json:"replace,omitempty"`  // take the name from the image that has it
}

// ImageBuilder makes images of a distribution's packages. Package bootstrap and
// API client implement it.
type ImageBuilder interface {
	// BuildImage resolves, fetches, unpacks and configures packages and names the
	// image made of them. Without Replace, an image of that name that was built is
	// returned as it is, and any other is CodeConflict; with it, one that has these
	// very packages is. If ctx ends first nothing remains but downloads, which the
	// next call goes on with.
	BuildImage(ctx context.Context, r Recipe, p Progress) (Image, error)
	// Image returns one image with its lock, by its name, its id, or four digits and
	// more of it.
	Image(ctx context.Context, ref string) (Image, error)
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
	// Remove deletes a kernel's files, and says whether there were any.
	Remove(id string) (bool, error)
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
	// DeleteKernel deletes one by its id, four digits and more of it, or a name that
	// one alone has. CodeConflict while a VM uses it or a kernel is being fetched.
	DeleteKernel(ctx context.Context, ref string) error
}

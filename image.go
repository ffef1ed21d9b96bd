package banger

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"
)

// Image is a root filesystem, read-only, shared by all VMs made from it.
type Image struct {
	ID      string    `json:"id"`      // the filesystem's sha256; see IsImageID
	Name    string    `json:"name"`    // unique
	Size    int64     `json:"size"`    // bytes of the filesystem image
	Entries int       `json:"entries"` // files, directories, links, nodes in it
	Source  string    `json:"source"`  // where it came from, for a person
	Created time.Time `json:"created"`

	// Unfinished says that it is only a step of a build: it isn't shown, and the build
	// removes it. If the daemon dies first, the next one does.
	Unfinished bool `json:"unfinished,omitempty"`

	// Lock says what an image built from packages was made of. Lists of images leave
	// it out.
	Lock *Lock `json:"lock,omitempty"`

	// Config says how an OCI image is run. Root file systems and images of packages have
	// none. Lists of images leave it out.
	Config *ImageConfig `json:"config,omitempty"`
}

// ImageConfig is what an OCI image says of itself and of how it is run.
type ImageConfig struct {
	Entrypoint []string          `json:"entrypoint,omitempty"` // what every command is run by
	Cmd        []string          `json:"cmd,omitempty"`        // the command, or the entrypoint's arguments, when none is given
	Env        []string          `json:"env,omitempty"`        // KEY=value
	WorkDir    string            `json:"workdir,omitempty"`    // where commands begin
	User       string            `json:"user,omitempty"`       // whose they are: a name or number, or two with a colon
	Exposed    []string          `json:"exposed,omitempty"`    // ports that it serves: "80/tcp"
	Volumes    []string          `json:"volumes,omitempty"`    // directories for data
	StopSignal string            `json:"stop_signal,omitempty"`
	Health     []string          `json:"health,omitempty"` // the command that checks it: "CMD" or "CMD-SHELL", then its words
	Labels     map[string]string `json:"labels,omitempty"`
	Platform   string            `json:"platform"`           // "linux/amd64"
	Digest     string            `json:"digest,omitempty"`   // of its manifest: "sha256:..."
	DiffIDs    []string          `json:"diff_ids,omitempty"` // of its layers, the lowest first

	// Manifest and Raw are its manifest and config as they came, byte for byte, so that the
	// image can be given away with the same digest. Only the daemon has them; empty when
	// it came without a manifest, or when they are too large to be kept.
	Manifest []byte `json:"manifest,omitempty"`
	Raw      []byte `json:"raw,omitempty"`
}

// Shown returns what users see of it.
func (c *ImageConfig) Shown() *ImageConfig {
	if c == nil {
		return nil
	}
	shown := *c
	shown.Manifest, shown.Raw = nil, nil
	return &shown
}

// Running returns what commands in a VM of the image need to know of it.
func (c *ImageConfig) Running() *ImageConfig {
	if c == nil {
		return nil
	}
	return &ImageConfig{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkDir: c.WorkDir, User: c.User, StopSignal: c.StopSignal, Platform: c.Platform,
	}
}

// Command returns what runs in a VM of the image: with argv the entrypoint and that, else
// the entrypoint and the image's own command. Without either it returns nothing.
func (c *ImageConfig) Command(argv []string) []string {
	if c == nil {
		return argv
	}
	if len(argv) == 0 {
		argv = c.Cmd
	}
	return slices.Concat(c.Entrypoint, argv)
}

// Lock says which packages an image is made of. A build from it takes the same
// packages again, even when the archive has newer ones.
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
	Path    string `json:"path"`           // below the archive's root
	SHA256  string `json:"sha256"`         // of the package file, lower-case hex
	Size    int64  `json:"size"`           // of the package file, in bytes
	Auto    bool   `json:"auto,omitempty"` // not asked for: others depend on it
}

// PackageList reads names of packages, one a line; # begins a comment.
func PackageList(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			names = append(names, line)
		}
	}
	return names
}

// UnfinishedImage begins the names of images that are a step of a build. A user's
// image may have such a name, too.
const UnfinishedImage = "unfinished/"

// Recipe is what an image is built from. The builder has a default for each field
// that is empty: an empty recipe means the default image.
type Recipe struct {
	Name     string   `json:"name"`               // the image's; empty: the suite's, "debian-12"
	Suite    string   `json:"suite,omitempty"`    // "bookworm", which is the default; with Lock: empty
	Minimal  bool     `json:"minimal,omitempty"`  // without packages of one's own: those of the minimal list, in place of the default one
	Packages []string `json:"packages,omitempty"` // beside the essential ones; none: those of the default image; with Lock: none
	Lock     *Lock    `json:"lock,omitempty"`     // exactly these packages
	Snapshot string   `json:"snapshot,omitempty"` // URL for a lock's packages that the mirror no longer has; empty: snapshot.debian.org
	Replace  bool     `json:"replace,omitempty"`  // take the name from the image that has it
}

// ImageBuilder makes images of a distribution's packages.
type ImageBuilder interface {
	// BuildImage resolves, fetches, unpacks and configures packages, and names the
	// image made of them. If the name is taken: without Replace, an image that was
	// built is returned as it is, any other is CodeConflict; with Replace, an image
	// of exactly these packages is returned as it is, any other loses the name. If
	// ctx ends first, only downloads remain, and the next call uses them.
	BuildImage(ctx context.Context, r Recipe, p Progress) (Image, error)
}

// Missing is a hypervisor, a kernel or an image that a new VM needs, that isn't on this host, and that
// can be fetched or built. What it takes is an estimate.
type Missing struct {
	Kind     string `json:"kind"` // "hypervisor", "kernel", "image"
	Name     string `json:"name"`
	Source   string `json:"source"`         // the URL of the archive it comes from
	Download int64  `json:"download_bytes"` // what is fetched
	Disk     int64  `json:"disk_bytes"`     // what it takes of the disk
	Seconds  int    `json:"seconds"`        // how long that takes on this host, with a fast line to the archive
	Why      string `json:"why,omitempty"`  // why the VM needs another kernel than most VMs here
}

// Pull says which image of a registry is meant, and how the registry may be asked.
type Pull struct {
	Ref         string      `json:"ref"`                // as docker takes it: "alpine", "ghcr.io/org/image:tag", "localhost:5000/image@sha256:..."
	Name        string      `json:"name,omitempty"`     // the image's here; empty: the reference with its tag
	Platform    string      `json:"platform,omitempty"` // empty: "linux/amd64"
	Insecure    bool        `json:"insecure,omitempty"` // the registry may be asked without TLS; those of this host may be anyway
	Credentials Credentials `json:"credentials,omitzero"`
}

// Credentials are what a registry asks for. They are used for one request and never kept.
type Credentials struct {
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
	Token    string `json:"token,omitempty"` // an identity token, in place of user and password
}

// Registries get images from where the world keeps them.
type Registries interface {
	// Pull makes an image of a registry's, in whole or not at all. have returns the
	// record of an image that is here already: then no layer is fetched. The image has
	// the name that its reference gives it.
	Pull(ctx context.Context, what Pull, have func(id string) (Image, bool), p Progress) (Image, error)
}

// Kernel is a kernel with its modules, unpacked and ready to boot.
type Kernel struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`    // "debian-12-cloud"
	Version string    `json:"version"` // uname -r
	Source  string    `json:"source"`  // package and version, with its sha256
	Created time.Time `json:"created"`
	// Hypervisor is the only driver that runs it: "uml" for a kernel that is a program. Empty:
	// all others.
	Hypervisor string `json:"hypervisor,omitempty"`
	// Imported says that it was brought by its user: it can't be fetched again.
	Imported bool `json:"imported,omitempty"`
}

// KernelOffer is a kernel that can be fetched, and what is known of it without asking the
// archive.
type KernelOffer struct {
	Name     string     `json:"name"`              // "debian-12-cloud"
	Release  string     `json:"release"`           // "bookworm"
	Package  string     `json:"package"`           // which has it, or depends on the newest
	Source   string     `json:"source"`            // the URL of the archive
	Download int64      `json:"download_bytes"`    // an estimate of what is fetched
	Disk     int64      `json:"disk_bytes"`        // an estimate of what it takes of the disk
	ID       string     `json:"id,omitempty"`      // of the newest that is here; empty: none is
	Version  string     `json:"version,omitempty"` // of that one: uname -r
	Newest   string     `json:"newest,omitempty"`  // the package that the archive had at the last look
	Looked   *time.Time `json:"looked,omitempty"`  // when the archive was last looked at
	Behind   bool       `json:"behind,omitempty"`  // the archive had a newer one
}

// BootFiles are the paths a machine boots from.
type BootFiles struct {
	Hypervisor string `json:"hypervisor,omitempty"` // as Kernel's
	Vmlinux    string `json:"vmlinux"`              // uncompressed ELF kernel
	Initramfs  string `json:"initramfs"`            // ours: agent and boot modules
	Modules    string `json:"modules"`              // read-only filesystem image of /lib/modules/VERSION
}

// Images makes and keeps the filesystem images. It keeps files, not records:
// names and references are the store's.
type Images interface {
	// Import makes an image of a root tar, or of an archive of one OCI image, and
	// publishes it under an id that its content alone decides, whole or not at all; one
	// that is there already stays. Hostile or truncated input is CodeInvalid, and the
	// error names the entry.
	Import(ctx context.Context, tar io.Reader, p Progress) (Image, error)
	// Path returns the image file of an id; CodeNotFound when it is missing.
	Path(id string) (string, error)
	// Remove deletes the file. Removing what isn't there succeeds.
	Remove(id string) error
}

// Kernels fetches kernels and keeps their files.
type Kernels interface {
	// Pull fetches, verifies and unpacks the newest kernel of a name
	// ("debian-12-cloud"). Without update, a kernel that is there is returned.
	Pull(ctx context.Context, name string, update bool, p Progress) (Kernel, error)
	// Import makes a kernel of a tar: of Debian packages, or of the files of a directory as
	// they have it (boot/vmlinuz-VERSION or vmlinux, lib/modules/VERSION/...). Without a
	// name it has its version's. What can't be one is CodeInvalid.
	Import(ctx context.Context, name, source string, tar io.Reader, p Progress) (Kernel, error)
	// Offers returns the kernels that Pull knows.
	Offers() ([]KernelOffer, error)
	// Remove deletes a kernel's files, and says whether there were any.
	Remove(id string) (bool, error)
	// Boot returns the files a machine boots from. It makes the initramfs anew when
	// the agent has changed.
	Boot(ctx context.Context, id string) (BootFiles, error)
}

// ImageService is what the daemon offers for images.
type ImageService interface {
	ImageBuilder
	ImageSharing
	// ImportImage reads a root tar, or an archive of one OCI image, and names the image
	// made of it. An existing name is CodeConflict unless replace.
	ImportImage(ctx context.Context, name, source string, replace bool, tar io.Reader, p Progress) (Image, error)
	// PullImage gets an image from a registry. Its name is taken from the image that has
	// it: what a tag means changes.
	PullImage(ctx context.Context, what Pull, p Progress) (Image, error)
	// Images returns all images, without their locks.
	Images(ctx context.Context) ([]Image, error)
	// Image returns one image with its lock.
	Image(ctx context.Context, ref string) (Image, error)
	// DeleteImage refuses with CodeConflict while a VM uses the image.
	DeleteImage(ctx context.Context, ref string) error
}

// KernelService is what the daemon offers for kernels.
type KernelService interface {
	// PullKernel fetches a kernel by name; empty: the default one. Without update, a
	// kernel that is there is returned. With it, new VMs get the newest one, and VMs
	// that exist keep theirs.
	PullKernel(ctx context.Context, name string, update bool, p Progress) (Kernel, error)
	// ImportKernel makes a kernel of a tar of Debian packages, or of a directory's files,
	// and names it; empty: as its version. New VMs of a name get the kernel that had it last.
	ImportKernel(ctx context.Context, name, source string, tar io.Reader, p Progress) (Kernel, error)
	// AvailableKernels returns the kernels that can be fetched, by name.
	AvailableKernels(ctx context.Context) ([]KernelOffer, error)
	// Kernels returns all kernels, oldest first.
	Kernels(ctx context.Context) ([]Kernel, error)
	// Kernel returns a kernel by its id, its name, or the first four digits or more of
	// its id. Of several with one name it is the last, which new VMs get.
	Kernel(ctx context.Context, ref string) (Kernel, error)
	// DeleteKernel deletes a kernel by its id, the first four digits or more of it, or
	// a name that no other kernel has. CodeConflict while a VM uses it or a kernel is
	// being fetched.
	DeleteKernel(ctx context.Context, ref string) error
}

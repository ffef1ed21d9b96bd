package banger

import (
	"context"
	"io"
	"time"
)

// ImageStep is one step by which an image was made.
type ImageStep struct {
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"by"`                // the command that made it
	Comment string    `json:"comment,omitempty"` // of who made it
	Layer   string    `json:"layer,omitempty"`   // the digest of its layer as registries have it: "sha256:..."; empty: it changed no file, or isn't known
	Size    int64     `json:"size"`              // bytes of that; 0: none, or not known
	Here    bool      `json:"here"`              // the layer is in this host's cache
}

// Save says what becomes an image.
type Save struct {
	VM      string `json:"vm"`   // a stopped one
	Name    string `json:"name"` // the image's
	Replace bool   `json:"replace,omitempty"`
	Comment string `json:"comment,omitempty"` // for the image's history
}

// The formats in which an image is exported.
const (
	FormatOCI    = "oci"    // a tar of an OCI layout
	FormatDocker = "docker" // what docker save writes
)

// Export says how an image is written.
type Export struct {
	Image  string `json:"image"`
	Format string `json:"format,omitempty"` // empty: FormatOCI
	Squash bool   `json:"squash,omitempty"` // as one layer
}

// Push says which image goes to which registry, and how that may be asked.
type Push struct {
	Image       string      `json:"image"`
	Ref         string      `json:"ref"`                // as docker takes it; not by a digest
	Squash      bool        `json:"squash,omitempty"`   // as one layer
	Insecure    bool        `json:"insecure,omitempty"` // the registry may be asked without TLS; those of this host may be anyway
	Credentials Credentials `json:"credentials,omitzero"`
}

// Pushed is what a registry has now.
type Pushed struct {
	Ref    string `json:"ref"`    // with its tag
	Digest string `json:"digest"` // of the manifest
	Layers int    `json:"layers"`
	Remade bool   `json:"remade"` // it is one layer, made of the file system: the original ones aren't here
}

// ImageFormats gives images away as the world knows them. Layers that were fetched are
// used as they are. If some are gone from the cache, or if the image never had any, one
// layer is made of its file system, and progress says so.
type ImageFormats interface {
	// History returns the steps, the first one first.
	History(img Image) []ImageStep
	// Export writes an image as a tar. what.Image is what it is called there.
	Export(ctx context.Context, img Image, what Export, w io.Writer, p Progress) error
	// Push gives an image to a registry.
	Push(ctx context.Context, img Image, what Push, p Progress) (Pushed, error)
	// Save makes an image of another one and the disk of a VM of it, which has size bytes
	// and isn't in use. A disk that can't be one is CodeInvalid. The image has no name yet.
	Save(ctx context.Context, base Image, disk io.ReaderAt, size int64, what Save, p Progress) (Image, error)
}

// ImageSharing is what the daemon offers beside making images: more names for them, where
// they come from, and how others get them.
type ImageSharing interface {
	// TagImage gives an image another name. CodeConflict if that is taken, unless replace.
	TagImage(ctx context.Context, ref, name string, replace bool) (Image, error)
	// ImageHistory returns the steps by which an image was made, the first one first.
	ImageHistory(ctx context.Context, ref string) ([]ImageStep, error)
	// SaveImage makes an image of a stopped VM: its image, and what it wrote. CodeConflict
	// while it isn't stopped. It can't be started meanwhile.
	SaveImage(ctx context.Context, what Save, p Progress) (Image, error)
	// ExportImage writes an image as a tar.
	ExportImage(ctx context.Context, what Export, w io.Writer, p Progress) error
	// PushImage gives an image to a registry.
	PushImage(ctx context.Context, what Push, p Progress) (Pushed, error)
}

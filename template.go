package banger

import (
	"context"
	"time"
)

// Capturer is what a Hypervisor may be besides: one that freezes a booted guest
// into a template, a directory of files, and starts other machines from it.
type Capturer interface {
	// Kind digests all that a machine must have in common with a template to be
	// restored from it: the hypervisor's build, the kernel, the initramfs, the
	// command line, CPUs, memory, how many devices of each sort. Hex digits.
	Kind(ctx context.Context, m Machine) (string, error)
	// Capture freezes the running machine m, whose guest was told to freeze
	// (guest.Client.Freeze), into dir, which is on the filesystem of m.RAMDir, and
	// ends the machine, whose drives are its caller's alone again. On error the
	// machine may still run: it wants Kill.
	Capture(ctx context.Context, m Machine, h Handles, dir string) error
	// Restore is Start from the template in dir, whose kind is m's: what it returns
	// runs, its agent waits for its identity. The template is only read; the guest's
	// memory is its own from the first byte it writes.
	Restore(ctx context.Context, m Machine, dir string) (Handles, error)
}

// Template is a frozen guest that machines of its kind are started from: one at
// its freeze point, before it had a name, a disk or a network; or, an image
// template, one whose image has started, for new VMs of that image and disk size.
type Template struct {
	ID         string    `json:"id"` // 12 hex digits of its kind
	Hypervisor string    `json:"hypervisor"`
	Kernel     string    `json:"kernel"` // kernel id
	VCPU       int       `json:"vcpu"`
	MemoryMiB  int       `json:"memory_mib"`
	Net        NetMode   `json:"net"`
	Image      string    `json:"image,omitempty"`    // of an image template: the image's name
	ImageID    string    `json:"image_id,omitempty"` // and what it was
	DiskMiB    int       `json:"disk_mib,omitempty"` // its disk
	After      string    `json:"after,omitempty"`    // the command that was run in it
	Bytes      int64     `json:"bytes"`              // on disk
	Created    time.Time `json:"created"`
	Used       time.Time `json:"used,omitzero"`
	TookMS     int64     `json:"took_ms"` // to make
}

// TemplateSpec says which template is wanted. Zero fields mean what they mean
// in a Spec.
type TemplateSpec struct {
	Hypervisor string  `json:"hypervisor,omitempty"`
	Kernel     string  `json:"kernel,omitempty"`
	VCPU       int     `json:"vcpu,omitempty"`
	MemoryMiB  int     `json:"memory_mib,omitempty"`
	Net        NetMode `json:"net,omitempty"`
	// Image asks for an image template, made anew: of the image started, and After,
	// a shell's command, run in it. Empty: a template of before there is an image.
	Image   string `json:"image,omitempty"`
	DiskMiB int    `json:"disk_mib,omitempty"`
	After   string `json:"after,omitempty"`
}

// Templates is what the daemon offers for templates. They are a cache: made by
// themselves after a cold boot, when the host is idle, and remade when anything
// in their kind changes.
type Templates interface {
	// Templates returns all templates, the last used first.
	Templates(ctx context.Context) ([]Template, error)
	// CreateTemplate makes the template of a kind, or returns the one there is; an
	// image template takes the place of the one there is.
	CreateTemplate(ctx context.Context, spec TemplateSpec, p Progress) (Template, error)
	// DeleteTemplate removes a template. VMs that were started from it run on.
	DeleteTemplate(ctx context.Context, id string) error
}

// Launch says how a VM's run began.
type Launch struct {
	Template string   `json:"template,omitempty"` // restored from it; empty: booted
	Why      string   `json:"why,omitempty"`      // why it was booted, for a person
	Stages   []Stage  `json:"stages,omitempty"`   // where the time went, the guest's included
	Renewed  []string `json:"renewed,omitempty"`  // what a restored guest made new
	Shared   []string `json:"shared,omitempty"`   // what it has in common with others of its template, for good
}

// Stage is one timed step of a start.
type Stage struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}

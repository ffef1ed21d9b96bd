package banger

import (
	"context"
	"time"
)

// Capturer is an optional interface of Hypervisor. It freezes a booted guest into a
// template, which is a directory of files, and starts other machines from it.
type Capturer interface {
	// Kind returns a digest, in hex, of all that a machine must have in common with a
	// template to be restored from it: the hypervisor's build, the kernel, the
	// initramfs, the command line, CPUs, memory, and how many devices of each sort.
	Kind(ctx context.Context, m Machine) (string, error)
	// Capture saves the running machine m as a template in dir, and ends the machine:
	// it no longer uses its drives then. The guest was told to freeze before
	// (guest.Client.Freeze). dir is on the filesystem of m.RAMDir. On error the
	// machine may still run; call Kill.
	Capture(ctx context.Context, m Machine, h Handles, dir string) error
	// Restore is Start from the template in dir, which has m's kind. When it returns,
	// the machine runs and its agent waits for an identity. The template is only
	// read: what the guest writes to memory is its own.
	Restore(ctx context.Context, m Machine, dir string) (Handles, error)
}

// Template is a frozen guest that machines of its kind are started from. It was
// frozen before it had a name, a disk or a network. An image template was frozen
// after its image had started, and is for new VMs of that image and disk size.
type Template struct {
	ID         string    `json:"id"` // 12 hex digits of its kind
	Hypervisor string    `json:"hypervisor"`
	Kernel     string    `json:"kernel"` // kernel id
	VCPU       int       `json:"vcpu"`
	MemoryMiB  int       `json:"memory_mib"`
	Net        NetMode   `json:"net"`
	Image      string    `json:"image,omitempty"`    // the image's name; this and the next three: image templates only
	ImageID    string    `json:"image_id,omitempty"` // the image's id when the template was made
	DiskMiB    int       `json:"disk_mib,omitempty"` // size of its disk
	After      string    `json:"after,omitempty"`    // the command that was run in it
	Bytes      int64     `json:"bytes"`              // on disk
	Created    time.Time `json:"created"`
	Used       time.Time `json:"used,omitzero"`
	TookMS     int64     `json:"took_ms"` // how long making it took
}

// TemplateSpec says which template is wanted. Zero fields mean what they mean
// in a Spec.
type TemplateSpec struct {
	Hypervisor string    `json:"hypervisor,omitempty"`
	Isolation  Isolation `json:"isolation,omitempty"`
	Kernel     string    `json:"kernel,omitempty"`
	VCPU       int       `json:"vcpu,omitempty"`
	MemoryMiB  int       `json:"memory_mib,omitempty"`
	Net        NetMode   `json:"net,omitempty"`
	// Image asks for a new image template: the image is started, and After, a shell
	// command, is run in it. Empty: a template from before an image is started.
	Image   string `json:"image,omitempty"`
	DiskMiB int    `json:"disk_mib,omitempty"`
	After   string `json:"after,omitempty"`
}

// TemplateService is what the daemon offers for templates. They are a cache: the
// daemon makes one after a cold boot, when the host is idle, and another one when
// anything in its kind changes.
type TemplateService interface {
	// Templates returns all templates, the last used first.
	Templates(ctx context.Context) ([]Template, error)
	// Template returns a template by its id, or the first four digits or more of it.
	// CodeNotFound when there is none, CodeConflict when there are several.
	Template(ctx context.Context, ref string) (Template, error)
	// CreateTemplate makes the template of a kind, or returns the one there is. An
	// image template is always made, and replaces the one there is.
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
	Shared   []string `json:"shared,omitempty"`   // what it shares with other guests of its template and can't make new
}

// Stage is one timed step of a start.
type Stage struct {
	Name   string `json:"name"`
	TookMS int64  `json:"took_ms"`
}

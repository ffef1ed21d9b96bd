// Package api carries banger.Services over a Unix socket: a Server offers them as
// HTTP and JSON, and a Client implements them on the other side. Most answers, and
// some requests, are the root package's own types.
//
// It owns the route table, who may use it, and the form of errors and progress. It
// knows nothing of what a VM is made of or how a daemon is started, and it doesn't
// read a guest's streams: it copies them, or hands over a descriptor (see passing).
package api

import "banger"

// CreateVMRequest asks for a VM.
type CreateVMRequest struct {
	Spec  banger.Spec `json:"spec"`
	Start bool        `json:"start"` // start it, and wait until its agent answers
}

// StopVMRequest bounds a graceful stop.
type StopVMRequest struct {
	TimeoutMS int64 `json:"timeout_ms,omitempty" jsonschema:"minimum=0"` // how long the guest's own shutdown may take; 0: the default, 30 s
	Force     bool  `json:"force,omitempty"`                             // don't ask the guest: kill at once
}

// RestartVMRequest says how a VM is stopped, and how it is started again.
type RestartVMRequest struct {
	StopVMRequest
	Cold bool `json:"cold,omitempty"` // boot, whatever templates there are
}

// KillVMRequest names a signal for a VM's hypervisor.
type KillVMRequest struct {
	Signal string `json:"signal,omitempty" jsonschema:"enum=KILL,enum=TERM,enum=INT,enum=STOP,enum=CONT"` // empty: KILL
}

// FollowQuery asks for what is still to come, too.
type FollowQuery struct {
	Follow bool `json:"follow,omitempty"` // go on with what comes, until the client leaves
}

// ImportImageQuery says what an image is called that comes as a tar.
type ImportImageQuery struct {
	Name    string `json:"name" jsonschema:"required"` // the image's
	Source  string `json:"source,omitempty"`           // where it came from, for a person
	Replace bool   `json:"replace,omitempty"`          // take the name from the image that has it
}

// ImportKernelQuery says what a kernel is called that comes as a tar.
type ImportKernelQuery struct {
	Name   string `json:"name,omitempty"`   // the kernel's; empty: its version
	Source string `json:"source,omitempty"` // where it came from, for a person
}

// MissingQuery says what a VM is made of.
type MissingQuery struct {
	Image  string `json:"image,omitempty"`  // empty: the default one
	Kernel string `json:"kernel,omitempty"` // empty: the one that fits what follows
	// What decides about its isolation, as in Spec.
	Isolation  string `json:"isolation,omitempty"`
	Hypervisor string `json:"hypervisor,omitempty"`
	VCPU       int64  `json:"vcpu,omitempty"`
	MemoryMiB  int64  `json:"memory_mib,omitempty"`
	Net        string `json:"net,omitempty"`
}

// spec is the spec of a VM that is made of that.
func (q MissingQuery) spec() banger.Spec {
	return banger.Spec{Image: q.Image, Kernel: q.Kernel, Isolation: banger.Isolation(q.Isolation), Hypervisor: q.Hypervisor,
		VCPU: int(q.VCPU), MemoryMiB: int(q.MemoryMiB), Net: banger.NetMode(q.Net)}
}

// PullKernelRequest names a kernel to fetch.
type PullKernelRequest struct {
	Name   string `json:"name,omitempty"`   // "debian-12-cloud"; empty: the default one
	Update bool   `json:"update,omitempty"` // look for a newer one than is there
}

package banger

import (
	"context"
	"time"
)

// VMControl is what can be done to a VM that exists beyond its plain life.
// Engine and API client implement it; refs and errors are as in VMService.
type VMControl interface {
	// KillVM sends a signal of Signals to the VMM and, when it is one that ends
	// it, returns once it has ended: the guest is not asked. CodeTimeout when it
	// goes on all the same.
	KillVM(ctx context.Context, ref, signal string) (VM, error)
	// RestartVM stops a running VM as StopVM does and starts it again, as one
	// operation: a daemon that dies in between leaves both to the next one. A
	// stopped VM is started.
	RestartVM(ctx context.Context, ref string, opt StopOptions, p Progress) (VM, error)
	// BootVM is VMService.StartVM, but never from a template.
	BootVM(ctx context.Context, ref string, p Progress) (VM, error)
	// SetVM changes a stopped or running VM. A running one has NeedsRestart
	// afterwards: its guest keeps what it was started with.
	SetVM(ctx context.Context, ref string, change Change) (VM, error)
	// PruneVM deletes a VM if it is stopped, else it is CodeConflict.
	PruneVM(ctx context.Context, ref string) error
	// StatsVM says what a VM uses of its host now.
	StatsVM(ctx context.Context, ref string) (Stats, error)
}

// Signals returns the names of the signals KillVM sends. Signals that would
// write guest memory to a core file aren't among them.
func Signals() []string { return []string{"KILL", "TERM", "INT", "STOP", "CONT"} }

// Change is what SetVM changes. Zero fields stay as they are.
type Change struct {
	Name      string `json:"name,omitempty"`
	VCPU      int    `json:"vcpu,omitempty"`
	MemoryMiB int    `json:"memory_mib,omitempty"`
	DiskMiB   int    `json:"disk_mib,omitempty"` // never less than it was
}

// Usage is what a process uses of its host. Memory counts in bytes, as
// /proc/PID/smaps_rollup has it (proc_pid_smaps(5)).
type Usage struct {
	CPU     time.Duration `json:"cpu_ns"`  // user and system, since it began
	RSS     int64         `json:"rss"`     // resident
	PSS     int64         `json:"pss"`     // resident, shared pages counted by their share
	Shared  int64         `json:"shared"`  // of the resident: what others map too
	Private int64         `json:"private"` // and what only it has
}

// Stats is what a VM uses of its host. Usage is its VMM's and zero unless it runs.
type Stats struct {
	ID    string    `json:"id"`
	Name  string    `json:"name"`
	State State     `json:"state"`
	Time  time.Time `json:"time"`
	Usage
	Disk int64 `json:"disk"` // bytes that all its files take on the host
}

// Processes looks at and signals processes of the host. A recycled id is never
// taken for the process it was.
type Processes interface {
	// Signal sends a signal by its name. To one that has ended it does nothing.
	Signal(p Process, signal string) error
	// Usage of a process that has ended is CodeNotRunning.
	Usage(p Process) (Usage, error)
}

// System is what the daemon tells of itself as a whole. Its parts implement it
// together, and so does the API client.
type System interface {
	// Events calls each for what happened to VMs, oldest kept first; with follow
	// it goes on until ctx ends. Who reads too slowly finds an event with the
	// stage StageGap where others are missing.
	Events(ctx context.Context, follow bool, each func(Event)) error
	// Collect finds what lies on the host in our places and under our names, and
	// removes what no VM owns.
	Collect(ctx context.Context, opt CollectOptions) ([]Found, error)
	// Space says what banger's files take of the host, each thing once.
	Space(ctx context.Context) ([]Space, error)
	// Prune removes what no VM uses and what can be made or fetched again.
	Prune(ctx context.Context, opt PruneOptions) ([]Pruned, error)
}

// PruneOptions say how far Prune goes.
type PruneOptions struct {
	DryRun bool `json:"dry_run,omitempty"` // look only
	// All takes what the next VM would want, too: the default image and kernel,
	// if the image was built, and all templates.
	All bool `json:"all,omitempty"`
}

// Pruned is one thing that Prune removes.
type Pruned struct {
	Kind    string `json:"kind"` // "image", "kernel", "template", "download"
	ID      string `json:"id"`
	Name    string `json:"name"`
	Bytes   int64  `json:"bytes"` // what it takes
	Removed bool   `json:"removed"`
	Detail  string `json:"detail,omitempty"` // why it is still there
}

// Space is what one thing takes of the host.
type Space struct {
	Kind   string `json:"kind"` // "image", "kernel", "disk", "disk template", "template", "memory", "log", "download", "records", "other"
	Name   string `json:"name"`
	VM     string `json:"vm,omitempty"` // whose it is
	Bytes  int64  `json:"bytes"`
	Unused bool   `json:"unused,omitempty"` // no VM needs it
}

// StageGap marks the place of events that are no longer kept.
const StageGap = "gap"

// StageSpec is a creation's event once nothing is left open: its message says
// what is made.
const StageSpec = "spec"

// CollectOptions say how far Collect goes.
type CollectOptions struct {
	DryRun bool `json:"dry_run,omitempty"` // look only
	Disks  bool `json:"disks,omitempty"`   // remove directories that hold a disk, too
}

// Claim says whose something on the host is.
type Claim string

// The claims.
const (
	Owned    Claim = "owned"    // a VM's
	Orphaned Claim = "orphaned" // ours, and no VM's: removed
	Foreign  Claim = "foreign"  // in our places or like our names, and not ours: never touched
)

// Found is one thing on the host in our places or under our names.
type Found struct {
	Claim   Claim  `json:"claim"`
	Kind    string `json:"kind"` // "directory", "memory", "vmm", "shim", "tap", "dm", "loop"
	Name    string `json:"name"` // path, process id, or the kernel's name of it
	VM      string `json:"vm,omitempty"`
	Detail  string `json:"detail,omitempty"` // why it is so claimed, or is still there
	Removed bool   `json:"removed,omitempty"`
}

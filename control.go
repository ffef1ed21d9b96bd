package banger

import (
	"context"
	"time"
)

// VMControl is what can be done to a VM beyond creating, starting, stopping and
// deleting it. Engine and API client implement it.
type VMControl interface {
	// KillVM sends one of Signals to the VMM; the guest is not asked. If the signal
	// ends the VMM, KillVM returns once it has ended. A VM that somebody deleted
	// meanwhile is returned as Gone. CodeTimeout when the VMM doesn't end.
	KillVM(ctx context.Context, ref, signal string) (VM, error)
	// RestartVM stops a running VM as StopVM does and starts it again, by one
	// plan: if the daemon dies in between, the next one does what is left. A
	// stopped VM is started.
	RestartVM(ctx context.Context, ref string, opt StopOptions, p Progress) (VM, error)
	// SetVM changes a stopped or running VM. A running VM keeps what it was started
	// with, and has NeedsRestart set.
	SetVM(ctx context.Context, ref string, change Change) (VM, error)
	// PruneVM deletes a stopped VM. CodeConflict when it isn't stopped.
	PruneVM(ctx context.Context, ref string) error
	// StatsVM says what a VM uses of its host now.
	StatsVM(ctx context.Context, ref string) (Stats, error)
}

// Signals returns the names of the signals KillVM sends. Signals that would
// write guest memory to a core file aren't among them.
func Signals() []string { return []string{"KILL", "TERM", "INT", "STOP", "CONT"} }

// Change is what SetVM changes. A zero field changes nothing.
type Change struct {
	Name      string `json:"name,omitempty"`
	VCPU      int    `json:"vcpu,omitempty"`
	MemoryMiB int    `json:"memory_mib,omitempty"`
	DiskMiB   int    `json:"disk_mib,omitempty"` // a disk can only grow
	// Isolation and Hypervisor move a stopped VM. It gets a kernel that runs there.
	Isolation  Isolation `json:"isolation,omitempty"`
	Hypervisor string    `json:"hypervisor,omitempty"`
	// TTLMS is a new time to live, from now on; IdleStopMS a new time without use. 0 is no
	// bound. Neither needs a restart.
	TTLMS      *int64 `json:"ttl_ms,omitempty"`
	IdleStopMS *int64 `json:"idle_stop_ms,omitempty"`
	// Repository is what went into the guest; commands begin in Workspace from then on, if
	// that is set. Neither needs a restart.
	Repository *Repository `json:"repository,omitempty"`
	Workspace  string      `json:"workspace,omitempty"`
	// Publish and Unpublish add and take away ports, of a running VM at once.
	Publish   *[]Published `json:"publish,omitempty"`
	Unpublish *[]Published `json:"unpublish,omitempty"`
}

// Usage is what a process uses of its host, with those it started. Memory is in bytes, counted as in
// /proc/PID/smaps_rollup (proc_pid_smaps(5)); of several processes RSS is their PSS, and Shared
// what of it isn't private.
type Usage struct {
	CPUMS   int64 `json:"cpu_ms"`  // CPU time, user and system, since the process began
	RSS     int64 `json:"rss"`     // resident
	PSS     int64 `json:"pss"`     // resident; a page that N processes map counts for 1/N
	Shared  int64 `json:"shared"`  // resident, and mapped by others too
	Private int64 `json:"private"` // resident, and mapped by no other
}

// Stats is what a VM uses of its host. Usage is its VMM's; zero unless the VM runs.
type Stats struct {
	ID    string    `json:"id"`
	Name  string    `json:"name"`
	State State     `json:"state"`
	Time  time.Time `json:"time"`
	Usage
	Disk int64 `json:"disk"` // bytes that all the VM's files take on the host
}

// Processes looks at and signals processes of the host. A process whose PID was
// given to another one counts as ended.
type Processes interface {
	// Signal sends a signal by its name. A process that has ended gets nothing, and
	// that is no error.
	Signal(p Process, signal string) error
	// Usage says what a process uses. CodeNotRunning when it has ended.
	Usage(p Process) (Usage, error)
}

// SystemService is what the daemon offers that isn't about one VM, image,
// kernel or template.
type SystemService interface {
	// Events calls each for what happened to VMs, starting with the oldest event
	// kept; with follow it goes on until ctx ends. A slow reader misses events; one
	// with the stage StageGap stands in their place.
	Events(ctx context.Context, follow bool, each func(Event)) error
	// Collect finds what lies on the host in our directories or under our names,
	// and removes what no VM owns.
	Collect(ctx context.Context, opt CollectOptions) ([]Found, error)
	// Space says what banger's files take of the host; what is shared counts once.
	Space(ctx context.Context) ([]Space, error)
	// Missing lists what a VM of this spec needs and what isn't here yet, in the order in
	// which it is to be made: the kernel first. Zero fields mean the defaults, as they do in a
	// creation. CodeNotFound: there is no such thing, and it can't be made by its name alone.
	Missing(ctx context.Context, spec Spec) ([]Missing, error)
	// Prune removes what no VM uses and can be made or fetched again.
	Prune(ctx context.Context, opt PruneOptions) ([]Pruned, error)
	// Proxy says where browsers reach what listens in VMs.
	Proxy(ctx context.Context) (Proxy, error)
}

// PruneOptions say how far Prune goes.
type PruneOptions struct {
	DryRun bool `json:"dry_run,omitempty"` // look only
	// All also removes what the next VM would need: the default image and kernel,
	// if that image was built here, and all templates.
	All bool `json:"all,omitempty"`
}

// Pruned is one thing that Prune removes.
type Pruned struct {
	Kind    string `json:"kind"` // "image", "kernel", "template", "download"
	ID      string `json:"id"`
	Name    string `json:"name"`
	Bytes   int64  `json:"bytes"` // on disk
	Removed bool   `json:"removed"`
	Detail  string `json:"detail,omitempty"` // why it is still there
}

// Space is what one thing takes of the host's disks.
type Space struct {
	Kind   string `json:"kind"` // "image", "kernel", "disk", "disk base", "template", "memory", "log", "download", "records", "other"
	Name   string `json:"name"`
	VM     string `json:"vm,omitempty"` // id of the VM that owns it
	Bytes  int64  `json:"bytes"`
	Unused bool   `json:"unused,omitempty"` // no VM needs it
}

// StageGap is the stage of an event that stands for others no longer kept.
const StageGap = "gap"

// StageSpec is the stage of a creation's event that says, in its message, what
// is made, once all defaults are filled in.
const StageSpec = "spec"

// StageNote is the stage of an event whose message a person should read, beside all progress.
const StageNote = "note"

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
	Foreign  Claim = "foreign"  // in our directories or named like ours, but not ours: never touched
)

// Found is one thing on the host in our directories or under our names.
type Found struct {
	Claim   Claim  `json:"claim"`
	Kind    string `json:"kind"` // "directory", "memory", "vmm", "shim", "tap", "dm", "loop", "cgroup", "trial"
	Name    string `json:"name"` // path, process id, or the name in the kernel
	VM      string `json:"vm,omitempty"`
	Detail  string `json:"detail,omitempty"` // why it has this claim, or why it is still there
	Removed bool   `json:"removed,omitempty"`
}

// Proxy says where browsers reach VMs.
type Proxy struct {
	Port    int    `json:"port"` // of this host's own addresses; 0: none is wanted
	Serving bool   `json:"serving"`
	Problem string `json:"problem,omitempty"` // why it doesn't serve
	Hint    string `json:"hint,omitempty"`    // what to do about it
}

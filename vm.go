package banger

import (
	"context"
	"io"
	"net"
	"strings"
	"time"
)

// Limits of a Spec. The lower ones are what Debian's kernel and systemd need to
// reach a login; the upper ones catch mistyped numbers.
const (
	MinMemoryMiB = 128
	MaxMemoryMiB = 1 << 20 // 1 TiB
	MinDiskMiB   = 64
	MaxDiskMiB   = 16 << 20 // 16 TiB, the largest ext4 we grow online
	MaxVCPU      = 64
)

// NetMode says what a guest's network is connected to.
type NetMode string

// The network modes.
const (
	NetUser   NetMode = "user"   // a user-mode stack: outbound TCP, UDP, DNS; the host itself is closed
	NetBridge NetMode = "bridge" // a TAP on the host's bridge, with an address of its own; needs root
	NetNone   NetMode = "none"   // no network device at all
)

// Spec is what a user asked for. Zero fields mean "the default" and are filled
// in once, by the engine, before the VM is recorded.
type Spec struct {
	Name       string  `json:"name"`                 // DNS label, unique among live VMs
	Image      string  `json:"image"`                // image name or id
	Kernel     string  `json:"kernel,omitempty"`     // kernel name or id
	VCPU       int     `json:"vcpu"`                 // virtual CPUs
	MemoryMiB  int     `json:"memory_mib"`           // guest RAM
	DiskMiB    int     `json:"disk_mib"`             // the VM's own writable disk
	Net        NetMode `json:"net"`                  // network mode
	Remove     bool    `json:"remove,omitempty"`     // --rm: the VM is deleted when no client has a lease on it
	Hypervisor string  `json:"hypervisor,omitempty"` // driver name; empty: what fits Isolation, or the host's default
	// Isolation is what keeps the guest from its host; empty: the host's default. A record of an
	// older build has none: then it is what its hypervisor does.
	Isolation  Isolation `json:"isolation,omitempty"`
	DiskDriver string    `json:"disk_driver,omitempty"`  // driver name; empty: the host's default
	NoInit     bool      `json:"no_init,omitempty"`      // don't start the image's init: only the agent runs
	NeedInit   bool      `json:"need_init,omitempty"`    // an image without an init is refused
	Workspace  string    `json:"workspace,omitempty"`    // guest directory where commands run by default
	Limits     Limits    `json:"limits,omitzero"`        // how much disk and network I/O it may do
	Cold       bool      `json:"cold,omitempty"`         // every start boots, none restores a template
	Insecure   bool      `json:"insecure_vmm,omitempty"` // its VMM may run without a sandbox on a host that has none
	// Labels are words of the user's about the VM, by which lists are filtered.
	Labels map[string]string `json:"labels,omitempty"`
	// Ports of the host lead to ports of the guest.
	Ports []Published `json:"ports,omitempty"`
	// TTLMS is how long the VM may run after its user started it; then it is stopped, or
	// deleted with Remove. IdleStopMS is how long nobody may use it until it is stopped; 0: as
	// config.toml says. Both are in milliseconds, 0 is no bound.
	TTLMS      int64 `json:"ttl_ms,omitempty"`
	IdleStopMS int64 `json:"idle_stop_ms,omitempty"`
}

// MaxTTLMS bounds the times of a Spec: ten years.
const MaxTTLMS = 10 * 365 * 24 * 3600 * 1000

// Ends is when the time to live of a VM is over that is given it now; zero: never.
func (s Spec) Ends(now time.Time) time.Time {
	if s.TTLMS == 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(s.TTLMS) * time.Millisecond)
}

// Limits bound the I/O of a VM, for each of its devices separately. Zero: no bound.
type Limits struct {
	DiskMiB int `json:"disk_mib_per_s,omitempty"` // MiB a second, read and written
	DiskOps int `json:"disk_ops_per_s,omitempty"` // requests a second
	NetMiB  int `json:"net_mib_per_s,omitempty"`  // MiB a second, in each direction
}

// MaxLimit is the largest bound in Limits. Larger ones are mistyped: no device
// reaches them.
const MaxLimit = 1 << 20

// VM is one virtual machine as the daemon remembers it.
type VM struct {
	ID       string    `json:"id"` // 12 hex digits, never reused
	Spec     Spec      `json:"spec"`
	State    State     `json:"state"`
	Reason   string    `json:"reason,omitempty"` // why it is in this state, for a person
	ImageID  string    `json:"image_id"`         // resolved at creation, so that renaming an image changes nothing
	KernelID string    `json:"kernel_id"`
	Boots    int       `json:"boots"` // how often it was started
	Created  time.Time `json:"created"`
	MadeBy   string    `json:"made_by,omitempty"` // id of the operation that created it
	Started  time.Time `json:"started,omitzero"`
	Stopped  time.Time `json:"stopped,omitzero"`
	Ends     time.Time `json:"ends,omitzero"`    // when its time to live is over (see Spec.TTLMS)
	Exit     *Exit     `json:"exit,omitempty"`   // how the last run ended
	Held     Handles   `json:"held,omitzero"`    // a copy of what it holds on the host (see Handles)
	Net      NetConfig `json:"net,omitzero"`     // its side of a shared network, allocated at creation (see Networks)
	Launch   *Launch   `json:"launch,omitempty"` // how this run, or the last one, began

	// Config says how commands are run in it, if it is made of an OCI image: without what
	// only describes that.
	Config *ImageConfig `json:"config,omitempty"`

	// Repository is the repository that its guest has a copy of, if it has one.
	Repository *Repository `json:"repository,omitempty"`

	// NeedsRestart says that Spec has changed since this run began: its guest still
	// has the old values.
	NeedsRestart bool `json:"needs_restart,omitempty"`
}

// FindVM returns the VM that ref names: by its id, its name, or the first digits of
// its id, at least four. A name wins over digits, as somebody chose it. A VM that is
// being deleted is found by its name only when no other has that name; of several
// such, the youngest is. CodeNotFound when there is none, CodeConflict when there
// are several.
func FindVM(ref string, vms func(yield func(*VM) bool)) (*VM, error) {
	var named, prefixed []*VM
	var leaving *VM
	for vm := range vms {
		switch {
		case vm.ID == ref:
			return vm, nil
		case vm.Spec.Name == ref && vm.State != Deleting:
			named = append(named, vm)
		case vm.Spec.Name == ref:
			if leaving == nil || vm.Created.After(leaving.Created) {
				leaving = vm
			}
		case len(ref) >= 4 && strings.HasPrefix(vm.ID, ref):
			prefixed = append(prefixed, vm)
		}
	}
	if len(named) == 0 && leaving != nil {
		return leaving, nil
	}
	for _, found := range [][]*VM{named, prefixed} {
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return nil, Errorf(CodeConflict, "%q names %d VMs", ref, len(found)).
				WithHint("use more digits of the id: `banger vm list --json` has it")
		}
	}
	return nil, Errorf(CodeNotFound, "no VM %q", ref).WithHint("`banger ps` lists the VMs")
}

// Event is one line of an operation's progress. In the daemon's journal it is one
// thing that happened to a VM; Stage is then the state that the VM entered, or
// "deleted", "failed", "set" or "signal".
type Event struct {
	Op      string    `json:"op"`             // operation id, also in errors and the log
	VM      string    `json:"vm,omitempty"`   // VM id, when there is one
	Name    string    `json:"name,omitempty"` // its name, in the journal
	Stage   string    `json:"stage"`          // short noun: "disk", "boot", "workspace"
	Message string    `json:"message,omitempty"`
	Done    int64     `json:"done,omitempty"`  // progress in Unit, when Total is known
	Total   int64     `json:"total,omitempty"` // 0: unknown
	Unit    string    `json:"unit,omitempty"`  // what is counted, in the plural; empty: bytes
	Time    time.Time `json:"time"`
}

// Progress receives events while an operation runs. It may be nil and must not block.
type Progress func(Event)

// StartOptions say how a VM is started.
type StartOptions struct {
	Cold bool `json:"cold,omitempty"` // boot, don't restore from a template
}

// StopOptions bound a graceful stop.
type StopOptions struct {
	Timeout time.Duration // how long the guest's own shutdown may take; 0: the default (30 s)
	Force   bool          // don't ask the guest: kill at once
	Reason  string        // why; empty: a user asked for it
	Cold    bool          // a restart boots, and doesn't restore from a template
}

// VMService creates, starts, stops, deletes and reads VMs.
type VMService interface {
	// CreateVM makes a VM and, unless start is false, starts it and returns when
	// its agent answers. If ctx ends first, nothing of the VM remains.
	CreateVM(ctx context.Context, spec Spec, start bool, p Progress) (VM, error)
	// StartVM starts a stopped VM and returns when its agent answers. Starting a
	// running VM succeeds and changes nothing.
	StartVM(ctx context.Context, ref string, opt StartOptions, p Progress) (VM, error)
	// StopVM shuts the guest down through its init, and kills the VMM if it still
	// runs after the timeout. Stopping a stopped VM succeeds and changes nothing.
	StopVM(ctx context.Context, ref string, opt StopOptions) (VM, error)
	// DeleteVM ends a VM in any state and removes all that it has, its disk too.
	DeleteVM(ctx context.Context, ref string) error
	// VM returns one VM. CodeNotFound when there is none, CodeConflict when a
	// prefix names several.
	VM(ctx context.Context, ref string) (VM, error)
	// VMs returns all VMs, oldest first.
	VMs(ctx context.Context) ([]VM, error)
	// Dial opens one stream to the guest's agent; package guest has its protocol.
	// It doesn't wait for a VM to start: CodeNotRunning.
	Dial(ctx context.Context, ref string) (net.Conn, error)
	// Logs reads the console log from the oldest byte that is kept. With follow it
	// goes on until the VM or ctx ends.
	Logs(ctx context.Context, ref string, follow bool) (io.ReadCloser, error)
}

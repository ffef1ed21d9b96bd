// Package engine creates, starts, stops and deletes VMs with the drivers it is given. It
// records every plan before its first effect, and recovers from the death of a daemon or
// a VMM and from a reboot of the host. It implements banger.VMService, banger.VMControl and
// banger.Leases, one file a verb.
//
// It knows nothing of how drivers work: which hypervisor, which disks, which database,
// where images and kernels come from. It runs no program and opens no socket. It owns the
// VMs' directories.
package engine

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"banger"
	"banger/daemon/engine/fleet"
	"banger/guest"
)

// Defaults fill what a Spec leaves open, and bound what takes time. A zero
// duration means the value given here.
type Defaults struct {
	Hypervisor string // driver name
	Disk       string // disk driver name
	Net        banger.NetMode
	Image      string // image name
	Kernel     string // kernel name
	VCPU       int
	MemoryMiB  int
	DiskMiB    int

	Boot  time.Duration // until a booting guest's agent must have answered (60 s: emulation on a busy host)
	Stop  time.Duration // how long a guest's own shutdown may take (30 s)
	Lease time.Duration // how long a VM with Spec.Remove stays without a lease (30 s)
	Retry time.Duration // until an undo that failed is tried again (5 s), and then twice as long each time
}

// Catalog is what the engine needs of images and kernels.
type Catalog interface {
	// Resolve finds the image and the kernel of a new VM, each by name or id,
	// fetching a kernel that isn't here.
	Resolve(ctx context.Context, image, kernel string, p banger.Progress) (img banger.Image, kernelID string, err error)
	// Files returns what a machine of this image and this kernel boots from.
	Files(ctx context.Context, imageID, kernelID string) (image string, boot banger.BootFiles, err error)
	// KernelVersion returns a kernel's release (uname -r).
	KernelVersion(ctx context.Context, kernelID string) (string, error)
}

// Engine offers VMs. Its exported fields are set by the wiring, before Open, and
// never change after.
type Engine struct {
	Host
	Store     banger.Store
	Processes banger.Processes
	BootID    string // the host's current boot; handles of another boot aren't used
	Defaults  Defaults

	Now     func() time.Time
	NewID   func() string // 12 hex digits, never the same twice
	Log     *slog.Logger
	Journal func(banger.Event) // called with what happens to VMs, must not block; may be nil

	Templates Templates // nil: every start boots

	fleet      *fleet.Fleet
	allocating sync.Mutex // held from choosing an address until it is recorded

	// files does the engine's own file work, clock sets a guest's clock beside all
	// else; tests make the one fail and die, and leave out the other.
	files func(name string, do func() error) error
	clock func(context.Context, *guest.Client, *slog.Logger)
}

var (
	_ banger.VMService = (*Engine)(nil)
	_ banger.VMControl = (*Engine)(nil)
	_ banger.Leases    = (*Engine)(nil)
)

// Open reads the records and recovers all VMs. Half-made VMs are removed, half-stopped and
// half-deleted ones finished, half-restarted ones started. Running ones are adopted; if
// their VMM is gone, they become stopped. What takes long goes on after Open has returned,
// and what fails is tried again later.
//
// An error means that the records could not be read; nothing was changed.
func (e *Engine) Open(ctx context.Context) error {
	e.Defaults = e.Defaults.complete()
	if e.files == nil {
		e.files = func(_ string, do func() error) error { return do() }
	}
	if e.clock == nil {
		e.clock = syncClock
	}
	e.fleet = &fleet.Fleet{
		Store: e.Store, VMDir: e.dir, BootID: e.BootID, Lease: e.Defaults.Lease, Retry: e.Defaults.Retry,
		Now: e.Now, NewID: e.NewID, Log: e.Log, Journal: e.Journal, Files: e.files,
		Settle: e.settle, Expire: func(ctx context.Context, t *fleet.Turn) error { return e.job(t, nil).remove(ctx) },
	}
	return e.fleet.Open(ctx, known)
}

func (d Defaults) complete() Defaults {
	d.Disk, d.Net = cmp.Or(d.Disk, "file"), cmp.Or(d.Net, banger.NetUser)
	d.Boot, d.Stop = cmp.Or(d.Boot, 60*time.Second), cmp.Or(d.Stop, 30*time.Second)
	d.Lease, d.Retry = cmp.Or(d.Lease, 30*time.Second), cmp.Or(d.Retry, 5*time.Second)
	return d
}

// Close ends all work and returns when none goes on. A creation or start is undone if that
// is quick; all else is left to the next Open. VMs run on. An engine that was never opened
// may be closed.
func (e *Engine) Close() {
	if e.fleet != nil {
		e.fleet.End()
	}
}

// VMs returns all VMs, oldest first.
func (e *Engine) VMs(context.Context) ([]banger.VM, error) { return e.fleet.All(), nil }

// VM returns one VM.
func (e *Engine) VM(_ context.Context, ref string) (banger.VM, error) {
	r, err := e.fleet.Find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	return e.fleet.Seen(r), nil
}

// Idle reports whether no operation is in flight.
func (e *Engine) Idle() bool { return e.fleet.Idle() }

// HoldVM keeps a VM with Spec.Remove alive; see banger.Leases.
func (e *Engine) HoldVM(ctx context.Context, ref string, held func()) error {
	return e.fleet.Hold(ctx, ref, held)
}

// turn runs a verb on the VM that ref names, and returns the VM as it is afterwards.
func (e *Engine) turn(ctx context.Context, ref, doing string, p banger.Progress, verb func(context.Context, *job) error) (banger.VM, error) {
	r, err := e.fleet.Find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	return e.work(ctx, r, doing+" vm "+ref, p, func(ctx context.Context, j *job) error {
		j.doing = doing + " vm " + j.VM.Spec.Name
		return verb(ctx, j)
	})
}

// work runs a verb in a turn of the VM, and returns the VM as it is afterwards.
func (e *Engine) work(ctx context.Context, r *fleet.Record, doing string, p banger.Progress, verb func(context.Context, *job) error) (banger.VM, error) {
	op := ""
	err := e.fleet.Take(ctx, r, func(t *fleet.Turn) error {
		j := e.job(t, p)
		defer func() { op, doing = j.ID, j.doing }()
		return verb(ctx, j)
	})
	if err != nil {
		return banger.VM{}, surface(op, doing, err)
	}
	return e.fleet.Seen(r), nil
}

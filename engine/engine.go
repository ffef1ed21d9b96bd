// Package engine is the order of things: it creates, starts, stops and deletes
// VMs on whatever drivers it was given, writes every plan down before its first
// effect, and puts in order what a dead daemon, a dead VMM or a rebooted host
// left behind. It implements banger.VMService, banger.VMControl (by Control) and
// banger.Leases.
//
// It refuses to know how anything is done: which hypervisor, which disks, which
// database, where images and kernels come from. It runs no program and opens no socket; of the file system it owns
// the VMs' directories and the one file of its own in each.
package engine

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"banger"
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
	Lease time.Duration // how long a VM with Spec.Remove outlives its last holder (30 s)
	Retry time.Duration // until an undo that failed is tried again (5 s)
}

// Catalog is what the engine needs of images and kernels.
type Catalog interface {
	// Resolve finds the image and the kernel of a new VM, each by name or id,
	// fetching a kernel that isn't here.
	Resolve(ctx context.Context, image, kernel string, p banger.Progress) (imageID, kernelID string, err error)
	// Files returns what a machine of this image and this kernel boots from.
	Files(ctx context.Context, imageID, kernelID string) (image string, boot banger.BootFiles, err error)
	// KernelVersion returns a kernel's release (uname -r).
	KernelVersion(ctx context.Context, kernelID string) (string, error)
}

// Engine implements banger.VMService and banger.Leases. Its exported fields are
// set by the wiring, before Open, and never change after.
type Engine struct {
	Store       banger.Store
	Catalog     Catalog
	Hypervisors map[string]banger.Hypervisor // by driver name
	Host        Drivers
	Processes   banger.Processes

	Dir      string // state directory, absolute; VMs live in vms/<id> below it
	RAMDir   string // where guest memory goes
	BootID   string // the host's current boot; handles of another are not believed
	Defaults Defaults

	Now           func() time.Time
	NewID         func() string // 12 hex digits, never the same twice
	HostMemoryMiB func() int    // memory a new guest could get; nil: not asked
	Log           *slog.Logger
	Journal       func(banger.Event) // told what happens to VMs, must not block; nil: nobody is

	live
}

var (
	_ banger.VMService = (*Engine)(nil)
	_ banger.Leases    = (*Engine)(nil)
)

// live is what the engine knows while it lives.
type live struct {
	registry
	ctx  context.Context // ends with Close; bounds everything no client asked for
	stop context.CancelFunc
	wg   sync.WaitGroup

	// Warm is set by the wiring, as Engine's own fields are; nil: every start boots.
	Warm Warm

	naming sync.Mutex // held while a name changes hands in store and memory; before registry.mu

	allocating sync.Mutex // held from the choice of an address to its record; before naming

	// fs does the engine's own file work, clock sets a guest's clock beside all
	// else; tests make the one fail and die, and leave out the other.
	fs    func(op string, do func() error) error
	clock func(context.Context, *guest.Client, *slog.Logger)
}

// Open reads the records and puts the world in order: opening is recovery,
// there is no other way in. Half-made VMs are taken back, half-stopped and
// half-deleted ones finished, running ones adopted or, when their VMM is gone,
// cleaned and stopped. What can't be put in order now is tried again later.
//
// An error means the records could not be read; nothing was changed.
func (e *Engine) Open(ctx context.Context) error {
	e.Defaults = e.Defaults.complete()
	e.ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	if e.fs == nil {
		e.fs = func(_ string, do func() error) error { return do() }
	}
	if e.clock == nil {
		e.clock = syncClock
	}
	vms, err := e.Store.VMs(ctx)
	if err != nil {
		return err
	}
	ops, err := e.Store.Ops(ctx)
	if err != nil {
		return err
	}
	e.vms = make(map[string]*record, len(vms))
	for _, vm := range vms {
		e.vms[vm.ID] = newRecord(vm)
	}
	for _, op := range ops {
		if r := e.vms[op.VM]; r != nil {
			r.op = &op
		}
	}
	e.recover(ctx)
	return nil
}

func (d Defaults) complete() Defaults {
	d.Disk, d.Net = cmp.Or(d.Disk, "file"), cmp.Or(d.Net, banger.NetUser)
	d.Boot, d.Stop = cmp.Or(d.Boot, 60*time.Second), cmp.Or(d.Stop, 30*time.Second)
	d.Lease, d.Retry = cmp.Or(d.Lease, 30*time.Second), cmp.Or(d.Retry, 5*time.Second)
	return d
}

// Close ends what the engine does by itself. VMs run on: the next Open finds
// them. An engine that was never opened has nothing to end.
func (e *Engine) Close() {
	if e.stop == nil {
		return
	}
	e.mu.Lock()
	e.closed = true
	for _, r := range e.vms {
		r.disarm()
	}
	e.mu.Unlock()
	e.stop()
	e.wg.Wait()
}

// spawn runs fn beside the caller unless the engine is closed.
func (l *live) spawn(fn func(ctx context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Go(func() { fn(l.ctx) })
	}
}

// after runs fn once d has passed, unless the engine is closed by then. The
// timer returned may be stopped.
func (l *live) after(d time.Duration, fn func(ctx context.Context)) *time.Timer {
	return time.AfterFunc(d, func() { l.spawn(fn) })
}

// Package qemu runs machines on QEMU's microvm, with KVM or by emulation. It
// owns QEMU's command line, its monitor protocol (QMP), the guest memory file,
// and how a VMM is recognised: by the name it was started with, asked of its
// monitor socket and read from its arguments, never by a PID alone.
//
// It refuses to know what a VM is for, what its guest speaks on a stream, and
// who remembers handles. What a running machine needs held beside its VMM is
// package shim's.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/proc"
	"banger/shim"
)

// Config is what the driver is told about its host.
type Config struct {
	Binary   string // QEMU's path, or a name for PATH; empty: qemu-system-x86_64
	Shim     string // path of banger-shim
	CacheDir string // where answers about the binary are kept; empty: nowhere
	KVM      bool   // KVM works here (see package kvm)
	TSCKHz   int    // rate of the host's time stamp counter; 0: not known to be constant
}

// Driver is the banger.Hypervisor for QEMU. Calls for different machines may
// run side by side; those for one machine may not.
type Driver struct {
	cfg       Config
	mu        sync.Mutex // guards known
	known     build
	attaching sync.Mutex // two new shims at once would fight for one machine
}

var (
	_ banger.Hypervisor = (*Driver)(nil)
	_ banger.Capturer   = (*Driver)(nil)
)

// New returns a driver. It touches nothing: what is missing shows at Start.
func New(cfg Config) *Driver {
	if cfg.Binary == "" {
		cfg.Binary = "qemu-system-x86_64"
	}
	return &Driver{cfg: cfg}
}

// BootDeadline is how long a guest may take from Start to its agent's first
// answer on a busy host. A guest that takes longer hangs, which emulated ones
// may in their kernel's timer calibration: kill it and start it again, once.
func (d *Driver) BootDeadline() time.Duration {
	if d.cfg.KVM {
		return 20 * time.Second
	}
	return 60 * time.Second
}

// Start spawns the shim, and it the VMM. A machine that already runs is
// CodeConflict: it wants Adopt, or Kill first.
func (d *Driver) Start(ctx context.Context, m banger.Machine) (banger.Handles, error) {
	return d.launch(ctx, m, boot{})
}

// how is a way to bring a machine to life.
type how interface {
	// ram makes the guest memory file, if any, and returns its path in the handles.
	ram(m banger.Machine) (held string, err error)
	// args are the arguments of QEMU that say what the guest begins with.
	args(d *Driver, m banger.Machine) []string
	// wake does what is left when the whole machine is made.
	wake(ctx context.Context, q *monitor) error
}

// boot begins with a kernel.
type boot struct{}

func (boot) ram(m banger.Machine) (string, error) { return ramFile(m), makeRAM(m) }

func (boot) args(d *Driver, m banger.Machine) []string {
	// Named and shared, so that a later capture of the machine needn't copy it.
	return append(memoryArgs(m, ramFile(m), "on"), "-kernel", m.Kernel, "-initrd", m.Initramfs, "-append", d.kernelArgs(m))
}

func (boot) wake(context.Context, *monitor) error { return nil }

// launch brings a machine to life.
func (d *Driver) launch(ctx context.Context, m banger.Machine, by how) (h banger.Handles, err error) {
	if err := check(m); err != nil {
		return banger.Handles{}, err
	}
	b, err := d.identify(ctx)
	if err != nil {
		return banger.Handles{}, err
	}
	argv, err := d.command(b, m, by.args(d, m))
	if err != nil {
		return banger.Handles{}, err
	}
	if vmm, alive := findVMM(ctx, m, banger.Process{}); alive {
		return banger.Handles{}, banger.Errorf(banger.CodeConflict, "machine %s already runs, as process %d", m.ID, vmm.PID)
	}
	if left, err := d.Kill(ctx, m, banger.Handles{}); err != nil {
		return banger.Handles{}, fmt.Errorf("clear what machine %s left (%+v): %w", m.ID, left, err)
	}
	defer func() {
		if err != nil {
			// The caller's context may be what ended the start.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
			defer cancel()
			_, undo := d.Kill(ctx, m, banger.Handles{})
			err = errors.Join(err, undo)
		}
	}()
	ram, err := by.ram(m)
	if err != nil {
		return banger.Handles{}, err
	}
	st, err := shim.Spawn(ctx, d.cfg.Shim, shimConfig(m, argv))
	if err != nil {
		return banger.Handles{}, fmt.Errorf("start machine %s: %w", m.ID, err)
	}
	if err := awaitMachine(ctx, m, st.VMM, by); err != nil {
		return banger.Handles{}, fmt.Errorf("start machine %s: %w", m.ID, err)
	}
	return banger.Handles{VMM: st.VMM, Shim: st.Shim, RAMFile: ram}, nil
}

// awaitMachine returns when QEMU has made the whole machine and it was woken, or
// has ended. Its sockets listen before it opens kernel and disks; the monitor
// answers after. One that takes its time on a busy host to boot may go on: the
// guest boots meanwhile.
func awaitMachine(ctx context.Context, m banger.Machine, vmm banger.Process, by how) error {
	_, boots := by.(boot)
	within := loadTimeout
	if boots {
		within = machineTimeout
	}
	err := answer(ctx, m, by, within)
	if err == nil || ctx.Err() != nil || boots && isTimeout(err) && proc.Alive(vmm) {
		return ctx.Err()
	}
	if proc.Alive(vmm) && !hungUp(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	exit, werr := shim.Wait(ctx, m.Dir)
	if werr != nil && proc.Alive(vmm) {
		return err
	}
	if werr != nil {
		return fmt.Errorf("QEMU ended, its shim doesn't say how: %w", errors.Join(err, werr))
	}
	return shim.StartError("QEMU", exit)
}

// answer waits for the machine's monitor and wakes the machine.
func answer(ctx context.Context, m banger.Machine, by how, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	q, err := dialOwn(ctx, m)
	if err != nil {
		return err
	}
	defer q.Close()
	return by.wake(ctx, q)
}

// hungUp tells that the monitor broke off, which is how the end of a QEMU shows
// first: the process is there for a moment more.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) ||
		errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNREFUSED)
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

const (
	machineTimeout = 5 * time.Second  // the making of a machine: 40 ms on a quiet host
	loadTimeout    = time.Minute      // the same, and a template's state: many at once, perhaps, on a busy host
	undoTimeout    = 30 * time.Second // the undoing of a Start that didn't succeed
)

// makeRAM makes the guest memory file before QEMU would, which makes it 0644.
func makeRAM(m banger.Machine) error {
	f, err := os.OpenFile(ramFile(m), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("guest memory: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(int64(m.MemoryMiB) << 20); err != nil {
		return fmt.Errorf("guest memory: %w", err)
	}
	return nil
}

// Dial opens a stream through the shim.
func (d *Driver) Dial(ctx context.Context, m banger.Machine) (net.Conn, error) {
	return shim.DialKept(ctx, m.Dir, d.adopter(m, banger.Handles{}))
}

// Wait asks the shim, and watches the VMM itself where no shim lives.
func (d *Driver) Wait(ctx context.Context, m banger.Machine, h banger.Handles) (banger.Exit, error) {
	return shim.WaitKept(ctx, m.Dir, d.adopter(m, h))
}

func (d *Driver) adopter(m banger.Machine, h banger.Handles) shim.Adopter {
	return func(ctx context.Context) (alive bool, err error) {
		h, alive, err = d.Adopt(ctx, m, h)
		return alive, err
	}
}

// removeFiles removes what a machine has in the filesystem beside its disk,
// records and logs. Only what carries our names is touched.
func removeFiles(m banger.Machine, ram string) error {
	var errs []error
	if filepath.Base(ram) == filepath.Base(ramFile(m)) {
		errs = append(errs, remove(ram)) // in the RAMDir of an earlier configuration
	}
	for _, s := range sockets {
		errs = append(errs, remove(filepath.Join(m.Dir, s)))
	}
	return errors.Join(append(errs, remove(ramFile(m)))...)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

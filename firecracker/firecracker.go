// Package firecracker runs machines on Firecracker, which needs KVM that works.
// It owns Firecracker's configuration file, its API and what is known to be wrong
// with a version of it, and how a VMM is recognised: by the id it was started
// with, asked of who listens on its API socket and read from its arguments, never
// by a PID alone.
//
// A machine is described in one file that Firecracker reads at its start, not by a
// series of requests: there is no half-configured machine that a dead daemon
// could leave. The API is asked how a machine is.
//
// It refuses to know what a VM is for, what its guest speaks on a stream, who
// remembers handles, and where the program came from. What a running machine needs
// held beside its VMM is package shim's.
package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/proc"
	"banger/shim"
)

// Config is what the driver is told about its host.
type Config struct {
	Binaries []string // where Firecracker may be: paths, or names for PATH; the first that is there counts. Empty: firecracker
	Shim     string   // path of banger-shim
	CacheDir string   // where answers about the binary are kept; empty: nowhere
	NoKVM    string   // why KVM can't be used; empty: it works
	Jail     bool     // run Firecracker under its jailer, which lies beside it; for root only
}

// Driver is the banger.Hypervisor for Firecracker. Calls for different machines
// may run side by side; those for one machine may not.
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
	if len(cfg.Binaries) == 0 {
		cfg.Binaries = []string{"firecracker"}
	}
	return &Driver{cfg: cfg}
}

const (
	machineTimeout = 10 * time.Second // the making of a machine: some 50 ms on a quiet host
	answerTimeout  = 2 * time.Second  // a healthy VMM answers within milliseconds, a stopped one not at all
	attachTimeout  = 15 * time.Second // for a new shim, on a busy host
	undoTimeout    = 30 * time.Second // the undoing of a Start that didn't succeed
	quitTimeout    = 3 * time.Second  // from SIGTERM, at which Firecracker ends at once, to SIGKILL
)

// Start spawns the shim, and it the VMM. A machine that already runs is
// CodeConflict: it wants Adopt, or Kill first.
func (d *Driver) Start(ctx context.Context, m banger.Machine) (banger.Handles, error) {
	return d.launch(ctx, m, snapshot{})
}

// launch starts a machine, from a template if there is one.
func (d *Driver) launch(ctx context.Context, m banger.Machine, from snapshot) (h banger.Handles, err error) {
	if err := check(m); err != nil {
		return banger.Handles{}, err
	}
	b, err := d.identify(ctx)
	if err != nil {
		return banger.Handles{}, err
	}
	if d.cfg.NoKVM != "" {
		return banger.Handles{}, banger.Errorf(banger.CodeUnavailable, "Firecracker needs KVM: %s", d.cfg.NoKVM).
			WithHint("use --hypervisor qemu, which emulates; banger doctor says more")
	}
	if vmm, alive := d.findVMM(ctx, m, banger.Process{}); alive {
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
			h, err = banger.Handles{}, errors.Join(err, undo)
		}
	}()
	prepare := free
	if d.cfg.Jail {
		prepare = jailed
	}
	l, err := prepare(m, b.Path, from)
	if err == nil && from.empty() {
		err = l.writeConfig()
	}
	if err != nil {
		return banger.Handles{}, err
	}
	st, err := shim.Spawn(ctx, d.cfg.Shim, l.shimConfig())
	if err != nil {
		return banger.Handles{}, fmt.Errorf("start machine %s: %w", m.ID, err)
	}
	if !from.empty() {
		if err := load(ctx, m, l.template); err != nil {
			return banger.Handles{}, fmt.Errorf("load the template of machine %s: %w", m.ID, err)
		}
	}
	if err := awaitMachine(ctx, m, st.VMM); err != nil {
		return banger.Handles{}, fmt.Errorf("start machine %s: %w", m.ID, err)
	}
	if err := seal(ctx, m); err != nil {
		return banger.Handles{}, err
	}
	return banger.Handles{VMM: st.VMM, Shim: st.Shim}, nil
}

// seal takes the mounts of the machine's jail away, if it has any, unless Firecracker
// may not have opened all of them yet.
func seal(ctx context.Context, m banger.Machine) error {
	j := jailOf(m, "")
	if len(mountsBelow(j.dir)) == 0 || running(ctx, m) != nil {
		return nil
	}
	return j.seal()
}

// awaitMachine returns when the whole machine was made, or has ended. Its API
// answers then. One that takes
// its time on a busy host may go on: the guest boots meanwhile.
func awaitMachine(ctx context.Context, m banger.Machine, vmm banger.Process) error {
	err := running(ctx, m)
	if err == nil || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) && proc.Alive(vmm) {
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	exit, werr := shim.Wait(ctx, m.Dir)
	switch {
	case werr == nil:
		return shim.StartError("Firecracker", exit)
	case proc.Alive(vmm):
		return err
	}
	return fmt.Errorf("the VMM ended, its shim doesn't say how: %w", errors.Join(err, werr))
}

func running(ctx context.Context, m banger.Machine) error {
	var i instance
	err := onAPI(ctx, m.Dir, machineTimeout, func(ctx context.Context, a *api) (err error) {
		i, err = a.instance(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if i.ID != vmName(m.ID) || i.State != "Running" {
		return fmt.Errorf("machine %s: Firecracker says that %.80q is %.20q", m.ID, i.ID, i.State)
	}
	return nil
}

// Adopt finds the VMM by its API socket, then by the saved process, then among
// all processes by its id.
func (d *Driver) Adopt(ctx context.Context, m banger.Machine, saved banger.Handles) (h banger.Handles, alive bool, err error) {
	h = saved
	vmm, alive := d.findVMM(ctx, m, saved.VMM)
	if !alive {
		return h, false, ctx.Err()
	}
	h.VMM, h.RAMFile = vmm, "" // it never has one: what was saved may be anybody's
	st, err := shim.Ask(ctx, m.Dir)
	if err != nil {
		d.attaching.Lock()
		defer d.attaching.Unlock()
		ctx, cancel := context.WithTimeout(ctx, attachTimeout)
		defer cancel()
		if st, err = shim.Attach(ctx, d.cfg.Shim, m.Dir, vmm); err != nil {
			return h, true, fmt.Errorf("replace the shim of machine %s: %w", m.ID, err)
		}
	}
	h.Shim = st.Shim
	// Whoever started it may have died before it did this.
	return h, true, seal(ctx, m)
}

// findVMM returns the machine's living VMM. saved may be empty, or another
// process's by now: nothing is believed that doesn't carry the machine's id.
func (d *Driver) findVMM(ctx context.Context, m banger.Machine, saved banger.Process) (banger.Process, bool) {
	if pid, err := askPID(ctx, m); err == nil {
		if p, err := proc.Read(pid); err == nil && d.isVMM(pid, m.ID) {
			return p, true
		}
	}
	if proc.Alive(saved) && d.isVMM(saved.PID, m.ID) {
		return saved, true
	}
	return proc.Scan(func(pid int) bool { return d.isVMM(pid, m.ID) })
}

// askPID returns who listens on the machine's API socket, by the kernel's word: a
// stopped VMM needn't answer for that.
func askPID(ctx context.Context, m banger.Machine) (pid int, err error) {
	return pid, onAPI(ctx, m.Dir, answerTimeout, func(_ context.Context, a *api) error {
		pid = a.pid
		return nil
	})
}

// isVMM reports whether a process is the VMM of a machine: a Firecracker of our
// own user or of the machine's jail, or its jailer, started with the machine's id.
func (d *Driver) isVMM(pid int, id string) bool {
	for _, program := range d.programs() {
		argv, ok := proc.OwnArgs(pid, program)
		if !ok && os.Getuid() == 0 {
			argv, ok = proc.Args(pid, program, jailUID(id))
		}
		if i := slices.Index(argv, "--id"); ok && i >= 0 && i+1 < len(argv) && argv[i+1] == vmName(id) {
			return true
		}
	}
	return false
}

// programs are what the names of Firecracker's programs may begin with. The
// official ones carry a version.
func (d *Driver) programs() []string {
	list := []string{"firecracker", "jailer"}
	for _, b := range d.cfg.Binaries {
		if base := filepath.Base(b); !strings.HasPrefix(base, list[0]) {
			list = append(list, base)
		}
	}
	return list
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

// Kill ends Firecracker, which has handed what its guest wrote to the host's
// kernel already; waits for the shim, then kills that; and removes what they had
// in the machine's directory.
func (d *Driver) Kill(ctx context.Context, m banger.Machine, h banger.Handles) (banger.Handles, error) {
	left := h
	if err := d.endVMM(ctx, m, h.VMM); err != nil {
		return left, err
	}
	if err := shim.End(ctx, d.cfg.Shim, m.Dir, h.Shim); err != nil {
		return left, fmt.Errorf("end the shim of machine %s: %w", m.ID, err)
	}
	left.Shim = banger.Process{}
	// A shim that was just about to spawn its VMM has done so by now, or never will.
	if err := d.endVMM(ctx, m, h.VMM); err != nil {
		return left, err
	}
	left.VMM = banger.Process{}
	var errs []error
	for _, name := range files() {
		if err := os.Remove(filepath.Join(m.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, jailOf(m, "").clear())
	if err := errors.Join(errs...); err != nil {
		return left, fmt.Errorf("remove what machine %s left: %w", m.ID, err)
	}
	left.RAMFile = "" // another driver's at most: there is none of ours
	return left, nil
}

// endVMM ends the machine's VMM, if it has one, and sees it gone.
func (d *Driver) endVMM(ctx context.Context, m banger.Machine, saved banger.Process) error {
	vmm, alive := d.findVMM(ctx, m, saved)
	if !alive {
		return ctx.Err() // a search cut short has found nothing for certain
	}
	if err := proc.End(ctx, vmm, quitTimeout); err != nil {
		return fmt.Errorf("end the VMM of machine %s: %w", m.ID, err)
	}
	return nil
}

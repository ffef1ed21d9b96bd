// Package qemu runs machines on QEMU's microvm, with KVM or by emulation. It owns QEMU's
// command line, its monitor protocol (QMP) and the guest memory file. It recognises a VMM by
// the name it was started with, which it asks of its monitor and reads from its arguments; it
// never relies on a PID alone.
//
// It knows nothing of what a VM is for, what is sent on a stream, or who keeps handles.
// Package machine does what all hypervisors have in common.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/host/hostfs"
	"banger/vmm/machine"
	"banger/vmm/shim"
)

// Config is what the driver is told about its host.
type Config struct {
	Binary   string // QEMU's path, or a name for PATH; empty: qemu-system-x86_64
	Shim     string // path of banger-shim
	CacheDir string // where answers about the binary are kept; empty: nowhere
	KVM      bool   // KVM works here (see package kvm)
	TSCKHz   int    // rate of the host's time stamp counter; 0: not known to be constant
	Insecure bool   // run QEMU without its sandbox where it can't have it

	// Fetched returns a QEMU for hosts whose own isn't there or won't do, by its program's path and
	// how it is started; "": there is none. Nil: there never is one.
	Fetched func() (path string, command []string)
}

// Driver is the banger.Hypervisor for QEMU. Calls for different machines may be concurrent;
// those for one machine may not.
type Driver struct {
	*machine.Supervisor
	cfg    Config
	builds machine.Answers[build]
}

var (
	_ banger.Hypervisor = (*Driver)(nil)
	_ banger.Capturer   = (*Driver)(nil)
	_ machine.VMM       = vmm{}
)

// New returns a driver. It touches nothing: what is missing shows at Start.
func New(cfg Config) *Driver {
	if cfg.Binary == "" {
		cfg.Binary = "qemu-system-x86_64"
	}
	return &Driver{
		Supervisor: machine.New(vmm{}, cfg.Shim), cfg: cfg,
		builds: machine.Answers[build]{Dir: cfg.CacheDir, Name: "qemu.json"},
	}
}

const (
	machineTimeout = 5 * time.Second // to make a machine: 40 ms on a quiet host
	loadTimeout    = time.Minute     // to make a machine and load a template's state: many may do so at once on a busy host
)

// Start boots a machine.
func (d *Driver) Start(ctx context.Context, m banger.Machine) (banger.Handles, error) {
	// Its memory is a shared file with a name, so that a later capture needn't copy it.
	return d.launch(ctx, m, append(memoryArgs(m, ramFile(m), memoryShared), "-kernel", m.Kernel, "-initrd", m.Initramfs, "-append", d.kernelArgs(m)), nil)
}

// launch starts a machine. args are QEMU's arguments for its memory and kernel, from is a
// template's state; nil: it boots.
func (d *Driver) launch(ctx context.Context, m banger.Machine, args []string, from *os.File) (banger.Handles, error) {
	if err := check(m); err != nil {
		return banger.Handles{}, err
	}
	if m.Isolation == banger.ByHardware && !d.cfg.KVM {
		return banger.Handles{}, banger.Errorf(banger.CodeUnavailable, "the VM is to be isolated by hardware, and KVM doesn't work here").
			WithHint("`banger doctor` says why; `banger vm set VM --isolation process`, or emulated, moves it")
	}
	b, err := d.identify(ctx)
	if err != nil {
		return banger.Handles{}, err
	}
	if err := d.confined(b, m.Insecure); err != nil {
		return banger.Handles{}, err
	}
	argv, err := d.command(b, m, args)
	if err != nil {
		return banger.Handles{}, err
	}
	return d.Launch(ctx, m, machine.Launch{
		Prepare: func() (shim.Config, error) {
			if from != nil { // a restored guest writes to private memory, not to a file
				return shimConfig(m, argv), nil
			}
			return shimConfig(m, argv), makeRAM(m)
		},
		// Its sockets listen before QEMU opens kernel and disks; the monitor answers after.
		Settle: func(ctx context.Context) error {
			within := machineTimeout
			if from != nil {
				within = loadTimeout
			}
			ctx, cancel := context.WithTimeout(ctx, within)
			defer cancel()
			q, err := dialMonitor(ctx, m)
			if err != nil {
				return err
			}
			defer q.Close()
			if from != nil {
				return q.load(ctx, from)
			}
			return nil
		},
		Boots: from == nil,
	})
}

// makeRAM makes the guest memory file: QEMU would make it with mode 0644.
func makeRAM(m banger.Machine) error {
	f, err := os.OpenFile(ramFile(m), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(int64(m.MemoryMiB)<<20), f.Close())
	}
	if err != nil {
		return fmt.Errorf("guest memory: %w", err)
	}
	return nil
}

// vmm implements machine.VMM for QEMU.
type vmm struct{}

// Traits of a QEMU: its program, and the name it was started with.
func (vmm) Traits() machine.Traits {
	return machine.Traits{Name: "QEMU", Programs: []string{"qemu-"}, VM: func(argv []string) string {
		return machine.Option(argv, "-name")
	}}
}

// Listener returns the process that listens on the machine's monitor, which says whose it is.
func (vmm) Listener(ctx context.Context, m banger.Machine) (pid int, err error) {
	q, err := dialMonitor(ctx, m)
	if err != nil {
		return 0, err
	}
	defer q.Close()
	return q.pid, nil
}

// Found looks for the memory file, which a restored machine doesn't have. If the shim was just
// replaced, the guest may have halted while there was none.
func (vmm) Found(ctx context.Context, m banger.Machine, h banger.Handles, renewed bool) (banger.Handles, error) {
	if !isRAMFile(h.RAMFile, m) {
		h.RAMFile = "" // the saved path isn't trusted
	}
	for _, path := range []string{launchedRAM(m), ramFile(m)} {
		if _, err := os.Stat(path); err == nil && isRAMFile(path, m) {
			h.RAMFile = path
		}
	}
	if renewed {
		// On an error do nothing: whoever stops the machine asks again.
		if stands, err := standsStill(ctx, m); err == nil && stands {
			_ = shim.Halted(ctx, m.Dir)
		}
	}
	return h, nil
}

// Clear removes sockets and memory, and only files under our names.
func (vmm) Clear(m banger.Machine, h banger.Handles) error {
	left := []string{ramFile(m)}
	for _, path := range []string{h.RAMFile, launchedRAM(m)} {
		if isRAMFile(path, m) {
			left = append(left, path) // in the RAMDir of an earlier build or configuration
		}
	}
	for _, s := range sockets {
		left = append(left, filepath.Join(m.Dir, s))
	}
	return hostfs.Remove(left...)
}

// isRAMFile reports whether a path has the name of the machine's own memory.
func isRAMFile(path string, m banger.Machine) bool {
	return filepath.Base(path) == filepath.Base(ramFile(m))
}

// launchedRAM returns the memory file that the machine's VMM was told to write to; ""
// for none.
func launchedRAM(m banger.Machine) string {
	for _, arg := range shim.Launched(m.Dir) {
		if _, path, ok := strings.Cut(arg, memoryPath); ok && strings.HasSuffix(path, memoryShared) {
			return strings.ReplaceAll(strings.TrimSuffix(path, memoryShared), ",,", ",")
		}
	}
	return ""
}

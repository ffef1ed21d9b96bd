// Package firecracker runs machines on Firecracker, which needs working KVM. It owns
// Firecracker's configuration file, its API, and the list of its known holes. It recognises
// a VMM by the id it was started with, which it asks of the process that listens on the API
// socket and reads from its arguments; it never relies on a PID alone.
//
// A machine is described in one file that Firecracker reads at its start. So a daemon that
// dies can't leave a half-configured machine. The API is asked for a machine's state.
//
// It knows nothing of what a VM is for, what is sent on a stream, who keeps handles, or
// where the program came from. Package machine does what all hypervisors have in common.
// Memory is in MiB, sizes of files in bytes.
package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/host/hostfs"
	"banger/vmm/machine"
	"banger/vmm/shim"
	"banger/vmm/uid"
)

// Config is what the driver is told about its host.
type Config struct {
	Binaries []string // paths of Firecracker, or names to look up in PATH; the first that exists is used. Empty: firecracker
	Shim     string   // path of banger-shim
	CacheDir string   // where answers about the binary are kept; empty: nowhere
	NoKVM    string   // why KVM can't be used; empty: it works
	Jail     bool     // run Firecracker under its jailer, which is in the same directory; for root only
}

// Driver is the banger.Hypervisor for Firecracker. Calls for different machines may be
// concurrent; those for one machine may not.
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
	if len(cfg.Binaries) == 0 {
		cfg.Binaries = []string{"firecracker"}
	}
	return &Driver{
		Supervisor: machine.New(vmm{cfg.Binaries}, cfg.Shim), cfg: cfg,
		builds: machine.Answers[build]{Dir: cfg.CacheDir, Name: "firecracker.json"},
	}
}

// machineTimeout bounds the making of a machine. It takes some 50 ms on a quiet host, but
// many may be made at once on a busy one.
const machineTimeout = 10 * time.Second

// Start boots a machine.
func (d *Driver) Start(ctx context.Context, m banger.Machine) (banger.Handles, error) {
	return d.launch(ctx, m, snapshot{})
}

// launch starts a machine, from a template if there is one.
func (d *Driver) launch(ctx context.Context, m banger.Machine, from snapshot) (banger.Handles, error) {
	if err := check(m); err != nil {
		return banger.Handles{}, err
	}
	b, err := d.identify(ctx)
	if err != nil {
		return banger.Handles{}, err
	}
	if d.cfg.NoKVM != "" {
		return banger.Handles{}, banger.Errorf(banger.CodeUnavailable, "Firecracker needs KVM: %s", d.cfg.NoKVM).
			WithHint("use --hypervisor qemu, which emulates; `banger doctor` says more")
	}
	prepare, seen := free, snapshot{}
	if d.cfg.Jail {
		prepare = jailed
	}
	return d.Launch(ctx, m, machine.Launch{
		Prepare: func() (shim.Config, error) {
			l, err := prepare(m, b.file.Path, from)
			if err == nil && from.empty() {
				err = l.writeConfig()
			}
			if err != nil {
				return shim.Config{}, err
			}
			seen = l.template
			return l.shimConfig(), nil
		},
		Settle: func(ctx context.Context) error {
			if from.empty() {
				return running(ctx, m, machineTimeout)
			}
			if err := load(ctx, m, seen); err != nil {
				return fmt.Errorf("load the template: %w", err)
			}
			return running(ctx, m, loadTimeout)
		},
		Boots: from.empty(),
	})
}

// running checks that Firecracker has made the whole machine: only then does its API answer.
func running(ctx context.Context, m banger.Machine, within time.Duration) error {
	var i instance
	err := onAPI(ctx, m.Dir, within, func(ctx context.Context, a *api) error { return a.do(ctx, http.MethodGet, "/", nil, &i) })
	if err != nil {
		return err
	}
	if i.ID != machine.Name(m.ID) || i.State != "Running" {
		return fmt.Errorf("machine %s: Firecracker says that %.80q is %.20q", m.ID, i.ID, i.State)
	}
	return nil
}

// vmm implements machine.VMM for Firecracker.
type vmm struct{ binaries []string }

// Traits of a Firecracker or of its jailer: the program, and the id it was started
// with. The official ones carry a version in their names.
func (v vmm) Traits() machine.Traits {
	t := machine.Traits{
		Name: "Firecracker", Programs: []string{"firecracker", "jailer"},
		VM: func(argv []string) string { return machine.Option(argv, "--id") },
		Jail: func(id, dir string) (int, []string) {
			return uid.Of(id, dir), roots(dir)
		},
	}
	for _, b := range v.binaries {
		if base := filepath.Base(b); !strings.HasPrefix(base, t.Programs[0]) {
			t.Programs = append(t.Programs, base)
		}
	}
	return t
}

// Listener asks the kernel which process listens on the API socket. That works with a
// stopped VMM, too.
func (vmm) Listener(ctx context.Context, m banger.Machine) (pid int, err error) {
	return pid, onAPI(ctx, m.Dir, machine.AnswerTimeout, func(_ context.Context, a *api) error {
		pid = a.pid
		return nil
	})
}

// Found removes the mounts of the machine's jail, if it has any and Firecracker has opened
// all its files. There is never a memory file with a name.
func (vmm) Found(ctx context.Context, m banger.Machine, h banger.Handles, _ bool) (banger.Handles, error) {
	h.RAMFile = ""
	j := jailOf(m, "")
	if len(mountsBelow(j.dir)) == 0 || running(ctx, m, machineTimeout) != nil {
		return h, nil
	}
	return h, j.seal()
}

// Clear removes files and jail.
func (vmm) Clear(m banger.Machine, _ banger.Handles) error {
	return errors.Join(hostfs.Remove(files(m.Dir)...), jailOf(m, "").clear())
}

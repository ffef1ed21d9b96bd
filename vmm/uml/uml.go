// Package uml runs machines on User-mode Linux: a guest's kernel as a program, in a jail of
// ours (package jail). Guest code runs at the host's speed, with no KVM and no root; what
// keeps it from the host is the jail, and no processor. It owns that program's command line.
//
// The guest's channel is a vsock, whose other end the jail's first process has (package
// vhost): it speaks to the shim as Firecracker does. That process is the VMM to all others.
//
// It knows nothing of what a VM is for, what is sent on a stream, or who keeps handles.
// Package machine does what all hypervisors have in common.
package uml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"banger"
	"banger/host/hostfs"
	"banger/host/proc"
	"banger/vmm/jail"
	"banger/vmm/machine"
	"banger/vmm/shim"
	"banger/vmm/uid"
)

// Config is what the driver is told about its host.
type Config struct {
	Shim string // path of banger-shim
	Jail string // path of banger-jail
	// Stands says why no jail stands on this host; nil: one does.
	Stands func(context.Context) error
}

// Driver is the banger.Hypervisor for User-mode Linux. Calls for different machines may be
// concurrent; those for one machine may not.
type Driver struct {
	*machine.Supervisor
	cfg    Config
	spread *spread
}

var (
	_ banger.Hypervisor = (*Driver)(nil)
	_ machine.VMM       = vmm{}
)

// New returns a driver. It touches nothing: what is missing shows at Start.
func New(cfg Config) *Driver {
	return &Driver{Supervisor: machine.New(vmm{}, cfg.Shim), cfg: cfg, spread: newSpread()}
}

// Start boots a machine.
func (d *Driver) Start(ctx context.Context, m banger.Machine) (banger.Handles, error) {
	if err := check(m); err != nil {
		return banger.Handles{}, err
	}
	if d.cfg.Stands != nil {
		if err := d.cfg.Stands(ctx); err != nil {
			return banger.Handles{}, fmt.Errorf("no jail stands: %w", err)
		}
	}
	set, err := cpus()
	if err != nil {
		return banger.Handles{}, err
	}
	cpu := d.spread.next(set)
	return d.Launch(ctx, m, machine.Launch{
		Prepare: func() (c shim.Config, err error) {
			s, err := room(m)
			if err != nil {
				return c, err
			}
			s.CPU = &cpu
			if os.Getuid() == 0 {
				if s.User, err = uid.Take(m.ID, m.Dir); err != nil {
					return c, err
				}
			}
			c = shimConfig(m, d.cfg.Jail)
			c.Jail, err = json.Marshal(s)
			return c, err
		},
		Settle: func(ctx context.Context) error { return ctx.Err() }, // a jail has all of its files before its VMM runs
		Boots:  true,
	})
}

// vmm implements machine.VMM for the first process of a jail.
type vmm struct{}

// Traits of a jail's first process: its program, the name it was started with, and that it is
// the first of its namespace. Nothing in a jail can be that, whatever it calls itself.
func (vmm) Traits() machine.Traits {
	return machine.Traits{
		Name: "User-mode Linux", Programs: []string{program},
		VM: func(argv []string) string {
			if len(argv) != 3 || argv[0] != program {
				return ""
			}
			return machine.Option(argv, argv[1])
		},
		Jail: func(id, dir string) (int, []string) { return uid.Of(id, dir), nil },
		Home: func(p proc.Sight) string {
			if len(p.Argv) != 3 || !proc.First(p.PID) {
				return ""
			}
			return p.Argv[1]
		},
	}
}

// program is the name of the jail's first process.
const program = "banger-jail"

// Listener returns the process that listens on the jail's socket.
func (vmm) Listener(ctx context.Context, m banger.Machine) (pid int, err error) {
	return jail.Listener(ctx, m.Dir)
}

// Found has nothing to add: the guest's memory is in the jail, and has no name on the host.
func (vmm) Found(_ context.Context, _ banger.Machine, h banger.Handles, _ bool) (banger.Handles, error) {
	h.RAMFile = ""
	return h, nil
}

// Clear removes sockets, and gives back the user id.
func (vmm) Clear(m banger.Machine, _ banger.Handles) error {
	var left []string
	for _, name := range []string{jail.SocketFile, jail.EndFile, channelSocket, consolePipe} {
		left = append(left, filepath.Join(m.Dir, name))
	}
	err := hostfs.Remove(left...)
	if os.Getuid() == 0 {
		err = errors.Join(err, uid.Free(uid.Of(m.ID, m.Dir), m.Dir))
	}
	return err
}

// Names in a machine's directory, and in its jail.
const (
	channelSocket = "v.sock"
	consolePipe   = "console.fifo"
	frames        = "frames"
	kernelAt      = "/linux"
	initramfsAt   = "/initramfs"
	librariesAt   = "/lib64/"
	deviceAt      = "/run/vsock"
)

const (
	guestPort = 512      // where the guest's agent listens (package channel of the agent)
	maxDrives = 8        // as many names as the driver has for them
	slack     = 64 << 20 // of the jail's tmpfs beside the guest's memory, in bytes
	processes = 8192     // each program of the guest is one, with a helper
	files     = 4096     // descriptors of the kernel
)

// Service is what the first process of the jail does for the VMM: see Serve in cmd/banger-jail.
const Service = "vsock"

// check refuses a machine that can't run so.
func check(m banger.Machine) error {
	const other = "make the VM with --isolation emulated"
	switch {
	case m.Limits != (banger.Limits{}):
		return banger.Errorf(banger.CodeInvalid, "User-mode Linux has no rate limits").WithHint("rate limits are Firecracker's, which needs KVM; without them --isolation process and emulated do")
	case m.VCPU > 1:
		return banger.Errorf(banger.CodeInvalid, "User-mode Linux has one processor, not %d", m.VCPU).WithHint("ask for --cpus 1, or " + other)
	case m.Net.Mode == banger.NetBridge:
		return banger.Errorf(banger.CodeInvalid, "User-mode Linux in its jail can't be on a bridge").WithHint("ask for --net user, or " + other)
	}
	return machine.Check(m, maxDrives)
}

// room returns the jail of a machine.
func room(m banger.Machine) (jail.Spec, error) {
	libraries := filepath.Join(filepath.Dir(m.Kernel), "lib")
	s := jail.Spec{
		Dir: m.Dir, Name: machine.Name(m.ID), Argv: command(m), Env: []string{"TMPDIR=/tmp", "HOME=/tmp"}, // where it can't make a directory it crashes
		Files: []jail.File{
			{Host: m.Kernel, At: kernelAt}, {Host: m.Initramfs, At: initramfsAt},
			{Host: filepath.Join(libraries, "ld-linux-x86-64.so.2"), At: librariesAt + "ld-linux-x86-64.so.2"},
			{Host: filepath.Join(libraries, "libc.so.6"), At: librariesAt + "libc.so.6"},
		},
		Limits:      jail.Limits{Scratch: int64(m.MemoryMiB)<<20 + slack, Processes: processes, Files: files},
		NoRandomize: true, // else up to a GiB of nothing would be in the file of its memory
		Once:        true, // a reboot is that it starts itself again
		Filter:      jail.UML, Listen: []string{channelSocket}, Inside: []string{deviceAt}, Services: []string{Service},
	}
	s.Limits.FileSize = s.Limits.Scratch
	for i, d := range m.Drives {
		s.Files = append(s.Files, jail.File{Host: d.Path, At: driveAt(i), Writable: !d.ReadOnly})
		st, err := os.Stat(d.Path)
		if err != nil {
			return s, fmt.Errorf("the drive %s of machine %s: %w", d.Serial, m.ID, err)
		}
		if !d.ReadOnly {
			s.Limits.FileSize = max(s.Limits.FileSize, st.Size())
		}
	}
	if m.Net.Mode == banger.NetUser {
		s.Pairs = []jail.Pair{{Name: frames, Type: "seqpacket"}}
	}
	return s, nil
}

func driveAt(i int) string { return fmt.Sprintf("/drive.%d", i) }

// command returns the command line of the kernel, which is a program's. Most of a boot would be
// the kernel's measuring of how fast it computes RAID 6, for btrfs, and a part of the rest its
// measuring of loops (lpj).
func command(m banger.Machine) []string {
	argv := []string{
		kernelAt, fmt.Sprintf("mem=%dM", m.MemoryMiB), "initrd=" + initramfsAt, "quiet",
		"con=null", "con0=fd:0,fd:1", "ssl=null", "pty.legacy_count=0", "lpj=14000000",
		"initcall_blacklist=raid6_select_algo,raid6_init,init_btrfs_fs",
		"virtio_uml.device=" + deviceAt + ":19", "banger.channel=vsock",
	}
	var names []string
	for i, d := range m.Drives {
		kind := fmt.Sprintf("ubd%d", i)
		if d.ReadOnly {
			kind += "r"
		}
		argv, names = append(argv, kind+"="+driveAt(i)), append(names, d.Serial)
	}
	if len(names) > 0 {
		argv = append(argv, "banger.drives="+strings.Join(names, ","))
	}
	if m.Net.Mode == banger.NetUser {
		argv = append(argv, "vec0:transport=fd,fd=3,depth=128,mac="+m.Net.MAC)
	}
	if m.Cmdline != "" {
		argv = append(argv, strings.Fields(m.Cmdline)...)
	}
	return argv
}

// shimConfig returns what the shim is told about a machine, but its jail.
func shimConfig(m banger.Machine, program string) shim.Config {
	c := shim.Config{
		ID: m.ID, Dir: m.Dir, Argv: []string{program}, Channel: channelSocket, Vsock: guestPort, Up: channelSocket,
		Pipes: []shim.Pipe{{Name: consolePipe, Log: shim.ConsoleFile, Console: true}},
	}
	if c.Net = shim.UserNet(m.Net); c.Net != nil {
		c.Net.Pair = frames
	}
	return c
}

package banger

import (
	"context"
	"net"
	"time"
)

// Drive is one block device of a machine. The guest finds it by its serial number,
// never by its position.
type Drive struct {
	Serial   string `json:"serial"` // "image", "modules", "disk"; at most 20 bytes (virtio-blk's limit)
	Path     string `json:"path"`   // absolute path of a raw file or block device
	ReadOnly bool   `json:"read_only"`
}

// NetConfig is the guest's side of its network. Zero with NetNone.
type NetConfig struct {
	Mode    NetMode `json:"mode"`
	MAC     string  `json:"mac,omitempty"`     // locally administered, derived from the VM's id
	Address string  `json:"address,omitempty"` // CIDR, "10.0.2.15/24"
	Gateway string  `json:"gateway,omitempty"`
	DNS     string  `json:"dns,omitempty"`
	Tap     string  `json:"tap,omitempty"` // the TAP device on the host, with NetBridge
}

// Machine is all a driver needs to run one VM. It is plain data, so that it could be
// sent to a privileged helper over a socket.
type Machine struct {
	ID        string      `json:"id"`
	Dir       string      `json:"dir"`     // the VM's own directory; sockets, logs and records go here
	RAMDir    string      `json:"ram_dir"` // where the guest memory file goes, a tmpfs where it fits
	VCPU      int         `json:"vcpu"`
	MemoryMiB int         `json:"memory_mib"`
	Kernel    string      `json:"kernel"`    // path of an uncompressed vmlinux
	Initramfs string      `json:"initramfs"` // path
	Cmdline   string      `json:"cmdline"`   // kernel arguments beside the driver's own
	Drives    []Drive     `json:"drives"`
	Net       NetConfig   `json:"net"`
	Limits    Limits      `json:"limits,omitzero"`
	Isolation Isolation   `json:"isolation,omitempty"`    // what must keep it from its host; empty: what the driver does here
	Insecure  bool        `json:"insecure_vmm,omitempty"` // run without the VMM's sandbox where it can't have one
	Ports     []Published `json:"ports,omitempty"`        // of the host that lead to the guest, for a Publisher
}

// Exit says how one run of a machine ended, as far as it could be seen.
type Exit struct {
	Kind   ExitKind  `json:"kind"`
	Detail string    `json:"detail,omitempty"` // a panic's first line, a signal's name, QEMU's last words
	Status int       `json:"status"`           // the VMM's own exit status; -1 when nobody could wait for it
	Time   time.Time `json:"time"`
}

// ExitKind is why a machine ended.
type ExitKind string

// The kinds.
const (
	ExitPoweroff ExitKind = "poweroff" // the guest powered off
	ExitReboot   ExitKind = "reboot"   // the guest asked to be rebooted
	ExitHalt     ExitKind = "halt"     // the guest halted and was ended by us
	ExitPanic    ExitKind = "panic"    // the guest's kernel panicked
	ExitKilled   ExitKind = "killed"   // the VMM was killed, by us or by somebody
	ExitFailed   ExitKind = "failed"   // the VMM ended with an error
	ExitUnknown  ExitKind = "unknown"  // nobody was there to see it
)

// Hypervisor runs machines. Every method is safe to repeat after a crash of the
// caller at any instant. Contexts bound the call, never the VMM's life.
type Hypervisor interface {
	// Start first clears what an earlier run of m left in m.Dir. Then it spawns the
	// VMM for m and what that needs beside it, and returns what they hold once the
	// VMM runs; the guest may still be booting. On error nothing of it is left.
	Start(ctx context.Context, m Machine) (Handles, error)
	// Adopt finds a running machine again: by its API socket first, then by the
	// saved process, whose identity is checked. It replaces a dead shim. The handles
	// returned include those given; alive says whether the VMM runs.
	Adopt(ctx context.Context, m Machine, saved Handles) (h Handles, alive bool, err error)
	// Dial opens one stream to the guest's agent, waiting for a booting guest
	// until ctx ends.
	Dial(ctx context.Context, m Machine) (net.Conn, error)
	// Wait waits until the machine has ended and returns how. An error means that
	// ctx ended first.
	Wait(ctx context.Context, m Machine, h Handles) (Exit, error)
	// Kill ends the VMM and what was started beside it and returns the handles not
	// yet seen gone: empty on success. Killing what never ran succeeds.
	Kill(ctx context.Context, m Machine, h Handles) (Handles, error)
}

package banger

import (
	"context"
	"net"
	"time"
)

// Drive is one block device of a machine. The guest finds it by its serial,
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
	Tap     string  `json:"tap,omitempty"` // the host's TAP device that the machine's network card is (NetBridge)
}

// Machine is all a driver needs to run one VM: plain data, complete, so that a
// privileged helper could take it over a socket.
type Machine struct {
	ID        string    `json:"id"`
	Dir       string    `json:"dir"`     // the VM's own directory; sockets, logs and records go here
	RAMDir    string    `json:"ram_dir"` // where the guest memory file goes, a tmpfs where it fits
	VCPU      int       `json:"vcpu"`
	MemoryMiB int       `json:"memory_mib"`
	Kernel    string    `json:"kernel"`    // path of an uncompressed vmlinux
	Initramfs string    `json:"initramfs"` // path
	Cmdline   string    `json:"cmdline"`   // arguments beyond the driver's own
	Drives    []Drive   `json:"drives"`
	Net       NetConfig `json:"net"`
	Limits    Limits    `json:"limits,omitzero"`
}

// Exit says how one run of a machine ended, as far as it could be seen.
type Exit struct {
	Kind   ExitKind  `json:"kind"`
	Detail string    `json:"detail,omitempty"` // a panic's first line, a signal's name, QEMU's last words
	Status int       `json:"status"`           // the VMM's own exit status; -1 when nobody could wait for it
	Time   time.Time `json:"time"`
	Cold   bool      `json:"cold,omitempty"` // of a reboot that was asked for: no template takes its place
}

// ExitKind is why a machine ended.
type ExitKind string

// The kinds. ExitReboot is the only one after which a machine is started again.
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
	// Start spawns the VMM for m and what it needs beside it, and returns what it
	// holds when the VMM runs; the guest may still be booting. What a dead
	// predecessor of the same id left in m.Dir is cleared first. On error nothing
	// it started is left.
	Start(ctx context.Context, m Machine) (Handles, error)
	// Adopt finds a running machine again: by its API socket first, then by the
	// saved process, verified. It replaces a dead shim. The handles returned are
	// never fewer than those given; alive says whether the VMM runs.
	Adopt(ctx context.Context, m Machine, saved Handles) (h Handles, alive bool, err error)
	// Dial opens one stream to the guest's agent, waiting for a booting guest
	// until ctx ends.
	Dial(ctx context.Context, m Machine) (net.Conn, error)
	// Wait returns how the machine ended, at once when it has already, else when
	// it does. An error means ctx ended first.
	Wait(ctx context.Context, m Machine, h Handles) (Exit, error)
	// Kill ends the VMM and everything beside it and returns the handles not yet
	// seen gone: empty on success. Killing what never ran succeeds.
	Kill(ctx context.Context, m Machine, h Handles) (Handles, error)
}

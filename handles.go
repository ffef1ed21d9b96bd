package banger

// Process identifies one process for good. The kernel gives the same PID to another
// process later, but never with the same start time in the same boot.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks after boot, field 22 of /proc/PID/stat (proc(5))
	BootID    string `json:"boot_id"`    // /proc/sys/kernel/random/boot_id
}

// Handles is what one VM holds in its host's kernel right now. While the daemon
// lives, what it has in memory is true. handles.json in the VM's directory and
// VM.Held in the store are copies: without them recovery only takes longer. A field
// is cleared only when the thing was seen gone.
type Handles struct {
	VMM      Process `json:"vmm,omitzero"`
	Shim     Process `json:"shim,omitzero"`
	RAMFile  string  `json:"ram_file,omitempty"`  // absolute path of the guest memory file; empty where that has no name
	Tap      string  `json:"tap,omitempty"`       // TAP device name (bridge network)
	BaseLoop string  `json:"base_loop,omitempty"` // loop device of the shared base (dm-snapshot disks)
	COWLoop  string  `json:"cow_loop,omitempty"`  // loop device of the copy-on-write file
	DMName   string  `json:"dm_name,omitempty"`   // device-mapper name
	DMDev    string  `json:"dm_dev,omitempty"`    // device-mapper node
}

// Empty reports whether nothing is held.
func (h Handles) Empty() bool { return h == Handles{} }

// Share is the part of Handles that one driver answers for.
type Share int

// The shares. Every field belongs to one of them.
const (
	MachineHandles Share = iota // VMM, Shim, RAMFile
	DiskHandles                 // BaseLoop, COWLoop, DMName, DMDev
	NetHandles                  // Tap
)

// Of returns h with all fields cleared but those of one share.
func (h Handles) Of(s Share) Handles {
	switch s {
	case DiskHandles:
		return Handles{BaseLoop: h.BaseLoop, COWLoop: h.COWLoop, DMName: h.DMName, DMDev: h.DMDev}
	case NetHandles:
		return Handles{Tap: h.Tap}
	}
	h.BaseLoop, h.COWLoop, h.DMName, h.DMDev, h.Tap = "", "", "", "", ""
	return h
}

// With returns h with the fields of one share taken from part.
func (h Handles) With(s Share, part Handles) Handles {
	switch s {
	case DiskHandles:
		h.BaseLoop, h.COWLoop, h.DMName, h.DMDev = part.BaseLoop, part.COWLoop, part.DMName, part.DMDev
	case NetHandles:
		h.Tap = part.Tap
	default:
		h.VMM, h.Shim, h.RAMFile = part.VMM, part.Shim, part.RAMFile
	}
	return h
}

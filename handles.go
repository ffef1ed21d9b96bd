package banger

// Process identifies one process for good: a PID alone is recycled by the
// kernel, a PID with its start time and the boot it belongs to is not.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks after boot, field 22 of /proc/PID/stat (proc(5))
	BootID    string `json:"boot_id"`    // /proc/sys/kernel/random/boot_id
}

// Handles is what one VM holds in its host's kernel right now. The daemon's
// in-memory copy is the only truth about this identity while the daemon lives;
// handles.json in the VM's directory and VM.Held in the store are copies, and
// the loss of either changes nothing but the time recovery takes. A field is
// cleared when, and only when, the thing was seen gone.
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

// Share says which driver answers for a field of Handles.
type Share int

// The shares. Together they are all fields.
const (
	MachineHandles Share = iota // VMM, Shim, RAMFile
	DiskHandles                 // BaseLoop, COWLoop, DMName, DMDev
	NetHandles                  // Tap
)

// Of returns one driver's share alone.
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

// With returns h with one driver's share as it is in part.
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

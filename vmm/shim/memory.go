package shim

import (
	"context"
	"fmt"
	"os"

	"banger/host/cgroup"
)

// What a VM may have of its host's memory beside its guest's, in MiB. The kernel holds
// all of it to that, where the host lets us make a group; the page cache of the VM's
// disks counts too, and goes when room is wanted. docs/bounds.md adds up what
// can be held.
const (
	ownMiB = 768 // a shim: what its channel and its network hold at most, and the runtime's slack
	vmmMiB = 256 // a VMM beside guest memory
)

// OwnBound and VMMBound are those in bytes.
const (
	OwnBound int64 = ownMiB << 20
	VMMBound int64 = vmmMiB << 20
)

// MemoryBound is what the shim, the VMM and the guest of a VM may have together, in
// bytes.
func MemoryBound(guestMiB int) int64 { return int64(guestMiB)<<20 + OwnBound + VMMBound }

// memory is the group that shim and VMM are in.
type memory struct {
	cgroup.Group
	before int // how many of its processes had been killed before the VMM began
}

// enter takes this process there, before it has anything that counts. A VM is worth
// more than its bound: what fails is only said.
func (m *memory) enter(ctx context.Context, cfg Config, attach bool) {
	if cfg.Memory == 0 {
		return
	}
	vmm := 0
	if attach {
		vmm = cfg.VMM.PID
	}
	var err error
	if m.Group, err = cgroup.Admit(ctx, cfg.ID, cfg.Memory, GroupFile, vmm); err != nil {
		fmt.Fprintln(os.Stderr, "the VM's memory isn't bounded:", err)
	}
	m.before = m.Kills()
}

// full says that the kernel has killed one of the group for want of memory; "" if not.
func (m *memory) full(limit int64) string {
	if m.Kills() == m.before {
		return ""
	}
	return fmt.Sprintf("the kernel ended it for want of memory: guest, VMM and shim may have %d MiB together", limit>>20)
}

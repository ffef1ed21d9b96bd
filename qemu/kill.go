package qemu

import (
	"context"
	"fmt"
	"time"

	"banger"
	"banger/proc"
	"banger/shim"
)

// quitTimeout is for QEMU to flush its disks.
const quitTimeout = 3 * time.Second

// Kill asks QEMU to quit, which flushes what the guest has written, then kills
// it; waits for the shim, then kills that; and removes sockets and memory. It
// asks by SIGTERM: the monitor's "quit" does the same, but needs the monitor to
// be free, and leaves no word of why QEMU ended.
func (d *Driver) Kill(ctx context.Context, m banger.Machine, h banger.Handles) (banger.Handles, error) {
	left := h
	if err := endVMM(ctx, m, h.VMM); err != nil {
		return left, err
	}
	if err := shim.End(ctx, d.cfg.Shim, m.Dir, h.Shim); err != nil {
		return left, fmt.Errorf("end the shim of machine %s: %w", m.ID, err)
	}
	left.Shim = banger.Process{}
	// A shim that was just about to spawn its VMM has done so by now, or never will.
	if err := endVMM(ctx, m, h.VMM); err != nil {
		return left, err
	}
	left.VMM = banger.Process{}
	if err := removeFiles(m, h.RAMFile); err != nil {
		return left, fmt.Errorf("remove what machine %s left: %w", m.ID, err)
	}
	left.RAMFile = ""
	return left, nil
}

// endVMM ends the machine's VMM, if it has one, and sees it gone.
func endVMM(ctx context.Context, m banger.Machine, saved banger.Process) error {
	vmm, alive := findVMM(ctx, m, saved)
	if !alive {
		return ctx.Err() // a search cut short has found nothing for certain
	}
	if err := proc.End(ctx, vmm, quitTimeout); err != nil {
		return fmt.Errorf("end the VMM of machine %s: %w", m.ID, err)
	}
	return nil
}

package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/proc"
)

// How long each step of Kill may take before the next, harsher one.
const (
	quitTimeout = 3 * time.Second // QEMU flushing its disks
	dieTimeout  = 10 * time.Second
	shimTimeout = 5 * time.Second // the shim noting how the VMM ended
)

// Kill asks QEMU to quit, which flushes what the guest has written, then kills
// it; waits for the shim, then kills that; and removes sockets and memory. It
// asks by SIGTERM: the monitor's "quit" does the same, but needs the monitor to
// be free, and leaves no word of why QEMU ended.
func (d *Driver) Kill(ctx context.Context, m banger.Machine, h banger.Handles) (banger.Handles, error) {
	left := h
	if err := endVMM(ctx, m, h.VMM); err != nil {
		return left, err
	}
	if err := d.endShim(ctx, m, h.Shim); err != nil {
		return left, err
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
	if err := proc.Kill(vmm, unix.SIGTERM); err == nil && ended(ctx, vmm, quitTimeout) {
		return nil
	}
	if err := proc.Kill(vmm, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill the VMM of machine %s: %w", m.ID, err)
	}
	if !ended(ctx, vmm, dieTimeout) {
		return errors.Join(ctx.Err(), banger.Errorf(banger.CodeTimeout, "the VMM of machine %s, process %d, doesn't end though killed", m.ID, vmm.PID))
	}
	return nil
}

// endShim lets the shim note how the VMM ended, and sees it gone. A shim that
// was killed as it spawned its VMM may have a child that isn't the VMM yet, and
// looks like a second shim.
func (d *Driver) endShim(ctx context.Context, m banger.Machine, saved banger.Process) error {
	for {
		p, alive := d.findShim(ctx, m, saved)
		if !alive {
			return ctx.Err()
		}
		// SIGTERM takes back a start in progress and means nothing to a shim otherwise.
		if err := proc.Kill(p, unix.SIGTERM); err == nil && ended(ctx, p, shimTimeout) {
			continue
		}
		if err := proc.Kill(p, unix.SIGKILL); err != nil {
			return fmt.Errorf("kill the shim of machine %s: %w", m.ID, err)
		}
		if !ended(ctx, p, dieTimeout) {
			return errors.Join(ctx.Err(), banger.Errorf(banger.CodeTimeout, "the shim of machine %s, process %d, doesn't end though killed", m.ID, p.PID))
		}
	}
}

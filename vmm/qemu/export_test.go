package qemu

import (
	"context"

	"banger"
)

// Command is the command line of a machine that boots.
func (d *Driver) Command(ctx context.Context, m banger.Machine) ([]string, error) {
	b, err := d.identify(ctx)
	if err != nil {
		return nil, err
	}
	return d.command(b, m, nil)
}

// MemoryArgs are the arguments for a guest's memory in a file of its own.
func MemoryArgs(m banger.Machine, path string) []string { return memoryArgs(m, path, memoryShared) }

// Found are the handles of a machine that runs, of which nothing is known.
func Found(ctx context.Context, m banger.Machine) (banger.Handles, error) {
	return vmm{}.Found(ctx, m, banger.Handles{}, false)
}

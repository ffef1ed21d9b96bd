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
	return d.command(b, m, boot{}.args(d, m))
}

package engine

import (
	"context"
	"io"

	"banger"
	"banger/console"
)

// Logs copies the console log, oldest kept byte first.
func (e *Engine) Logs(ctx context.Context, ref string, follow bool) (io.ReadCloser, error) {
	r, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	var live func() bool
	if follow {
		live = func() bool {
			switch e.seen(r).State {
			case banger.Starting, banger.Running, banger.Stopping:
				return true
			}
			return false
		}
	}
	l, err := console.Open(ctx, e.dir(r.vm.ID), live)
	if err != nil {
		return nil, surface("", "read the console of vm "+ref, err)
	}
	return l, nil
}

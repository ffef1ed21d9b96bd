package shim

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"time"

	"banger"
	"banger/proc"
)

// What drivers do with shims that may be dead: find, end and replace them.

const (
	answerTimeout = 2 * time.Second // a healthy shim answers within milliseconds, a stopped one not at all
	endTimeout    = 5 * time.Second // for a shim noting how its VMM ended
)

// Ask is GetStatus of a shim that may be stopped, and answers at once otherwise.
func Ask(ctx context.Context, dir string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return GetStatus(ctx, dir)
}

// Find returns a machine's shim, the program exe: who answers in its directory,
// the saved process, or one that is only just starting.
func Find(ctx context.Context, exe, dir string, saved banger.Process) (banger.Process, bool) {
	if st, err := Ask(ctx, dir); err == nil {
		return st.Shim, true
	}
	isShim := func(pid int) bool {
		argv, ok := proc.OwnArgs(pid, filepath.Base(exe))
		return ok && len(argv) > 1 && argv[1] == dir
	}
	if proc.Alive(saved) && isShim(saved.PID) {
		return saved, true
	}
	return proc.Scan(isShim)
}

// End lets a machine's shim note how the VMM ended, and sees it gone. A shim that
// was killed as it spawned its VMM may have a child that isn't the VMM yet, and
// looks like a second shim.
func End(ctx context.Context, exe, dir string, saved banger.Process) error {
	for {
		p, alive := Find(ctx, exe, dir, saved)
		if !alive {
			return ctx.Err()
		}
		// SIGTERM takes back a start in progress and means nothing to a shim otherwise.
		if err := proc.End(ctx, p, endTimeout); err != nil {
			return err
		}
	}
}

// Adopter finds a machine again and replaces its dead shim; alive says whether
// its VMM runs.
type Adopter func(context.Context) (alive bool, err error)

// DialKept is Dial; in place of a shim that died meanwhile it puts another, as
// WaitKept does: whoever notices first.
func DialKept(ctx context.Context, dir string, adopt Adopter) (net.Conn, error) {
	for {
		conn, err := Dial(ctx, dir)
		if err == nil || !errors.Is(err, ErrNoShim) || ctx.Err() != nil {
			return conn, err
		}
		if alive, aerr := adopt(ctx); aerr != nil || !alive {
			return nil, errors.Join(err, aerr)
		}
	}
}

// WaitKept is Wait, and watches the VMM itself where no shim lives.
func WaitKept(ctx context.Context, dir string, adopt Adopter) (banger.Exit, error) {
	for {
		exit, err := Wait(ctx, dir)
		if err == nil || ctx.Err() != nil {
			return exit, errors.Join(err, ctx.Err())
		}
		// The shim died, or nothing ever ran. A new shim takes over while the VMM lives.
		alive, err := adopt(ctx)
		if err == nil && alive {
			continue
		}
		// Another's new shim may have seen it end, and written how, in between.
		if exit, err := Wait(ctx, dir); err == nil {
			return exit, nil
		}
		if alive {
			return banger.Exit{}, err
		}
		return banger.Exit{Kind: banger.ExitUnknown, Detail: "nothing was there to see it end", Status: -1, Time: time.Now()}, ctx.Err()
	}
}

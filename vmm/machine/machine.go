// Package machine does what all hypervisors have in common: it launches a VMM by its shim,
// finds it again, waits for its end, freezes and ends it, and recognises its process. A
// driver embeds a [Supervisor] and supplies what differs, as a [VMM] and as one [Launch] for
// each way to start.
//
// It knows nothing of any hypervisor, or of what a VM is for. Package shim is the process
// beside a VMM.
package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"banger"
	"banger/host/cgroup"
	"banger/host/proc"
	"banger/vmm/shim"
)

// VMM is what a driver supplies.
type VMM interface {
	// Traits says how its processes are recognised.
	Traits() Traits
	// Listener returns the process that listens on the socket of m's VMM. It needn't check
	// that this is the VMM.
	Listener(ctx context.Context, m banger.Machine) (pid int, err error)
	// Found completes the handles of a running VMM, with its memory file if it has one, and
	// does what a daemon that died may have left undone. renewed says that the shim was just
	// replaced.
	Found(ctx context.Context, m banger.Machine, h banger.Handles, renewed bool) (banger.Handles, error)
	// Clear removes what a VMM that has ended left, but not its disk, records and logs.
	Clear(m banger.Machine, h banger.Handles) error
}

// Launch is one way to start a machine.
type Launch struct {
	// Prepare makes the files that the VMM needs and says how to start it. When the start
	// fails, VMM.Clear removes them.
	Prepare func() (shim.Config, error)
	// Settle returns when the VMM has made the whole machine and its guest runs.
	Settle func(ctx context.Context) error
	// Boots says that a VMM that is slow to answer isn't ended: its guest boots meanwhile.
	Boots bool
}

// Supervisor is banger.Hypervisor without Start. Calls for different machines may be
// concurrent; those for one machine may not.
type Supervisor struct {
	vmm       VMM
	shim      string
	attaching sync.Mutex // so that only one new shim at a time is started for a machine
}

// New returns a Supervisor for a driver's VMMs; shim is the path of banger-shim.
func New(vmm VMM, shim string) *Supervisor { return &Supervisor{vmm: vmm, shim: shim} }

// AnswerTimeout bounds a question to a VMM or a shim: a healthy one answers within
// milliseconds, a stopped one not at all.
const AnswerTimeout = 2 * time.Second

const (
	attachTimeout  = 15 * time.Second // for a new shim, on a busy host
	undoTimeout    = 30 * time.Second // to undo a start that failed
	quitTimeout    = 3 * time.Second  // from SIGTERM, at which a VMM flushes its disks, to SIGKILL
	publishTimeout = 20 * time.Second // for a shim, if need be a new one, to publish ports
	noteTimeout    = 5 * time.Second  // for a shim to note how its VMM ended
)

// Launch has a shim spawn the VMM of a machine. One that already runs is
// CodeConflict: it wants Adopt, or Kill first.
func (s *Supervisor) Launch(ctx context.Context, m banger.Machine, by Launch) (h banger.Handles, err error) {
	if vmm, alive := s.find(ctx, m, banger.Process{}); alive {
		return banger.Handles{}, banger.Errorf(banger.CodeConflict, "machine %s already runs, as process %d", m.ID, vmm.PID)
	}
	if left, err := s.Kill(ctx, m, banger.Handles{}); err != nil {
		return banger.Handles{}, fmt.Errorf("clear what machine %s left (%+v): %w", m.ID, left, err)
	}
	defer func() {
		if err != nil {
			// The caller's context may be what ended the start.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
			defer cancel()
			_, undo := s.Kill(ctx, m, banger.Handles{})
			h, err = banger.Handles{}, errors.Join(err, undo)
		}
	}()
	cfg, err := by.Prepare()
	if err != nil {
		return banger.Handles{}, err
	}
	cfg.Memory = shim.MemoryBound(m.MemoryMiB)
	st, err := shim.Spawn(ctx, s.shim, cfg)
	if err == nil {
		err = s.settle(ctx, m, st.VMM, by)
	}
	if err != nil {
		return banger.Handles{}, fmt.Errorf("start machine %s: %w", m.ID, err)
	}
	return s.vmm.Found(ctx, m, banger.Handles{VMM: st.VMM, Shim: st.Shim}, false)
}

// settle waits until the whole machine was made, or has ended.
func (s *Supervisor) settle(ctx context.Context, m banger.Machine, vmm banger.Process, by Launch) error {
	err := by.Settle(ctx)
	switch {
	case err == nil || ctx.Err() != nil || by.Boots && timedOut(err) && proc.Alive(vmm):
		return ctx.Err()
	case !hungUp(err) && proc.Alive(vmm):
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	exit, werr := shim.Wait(ctx, m.Dir)
	switch {
	case werr == nil:
		return shim.StartError(s.vmm.Traits().Name, exit)
	case proc.Alive(vmm):
		return err
	}
	return fmt.Errorf("%s ended, its shim doesn't say how: %w", s.vmm.Traits().Name, errors.Join(err, werr))
}

// Adopt finds the VMM by its socket, then by the saved process, then among all processes.
func (s *Supervisor) Adopt(ctx context.Context, m banger.Machine, saved banger.Handles) (h banger.Handles, alive bool, err error) {
	h = saved
	vmm, alive := s.find(ctx, m, saved.VMM)
	if !alive {
		return h, false, ctx.Err()
	}
	h.VMM = vmm
	st, err := shim.Ask(ctx, m.Dir)
	renewed := err != nil
	if renewed {
		s.attaching.Lock()
		defer s.attaching.Unlock()
		ctx, cancel := context.WithTimeout(ctx, attachTimeout)
		defer cancel()
		if st, err = shim.Attach(ctx, s.shim, m.Dir, vmm); err != nil {
			return h, true, fmt.Errorf("replace the shim of machine %s: %w", m.ID, err)
		}
	}
	h.Shim = st.Shim
	h, err = s.vmm.Found(ctx, m, h, renewed)
	return h, true, err
}

// Publish has the machine's shim publish m.Ports. If the shim has died, it starts another one.
func (s *Supervisor) Publish(ctx context.Context, m banger.Machine, held []banger.Socket) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	for {
		err := shim.Publish(ctx, m.Dir, m.Ports, held)
		if err == nil || !errors.Is(err, shim.ErrNoShim) || ctx.Err() != nil {
			return err
		}
		if _, alive, aerr := s.Adopt(ctx, m, banger.Handles{}); aerr != nil || !alive {
			return errors.Join(err, aerr)
		}
	}
}

// Dial opens a stream through the shim. If the shim has died, it starts another one, as Wait
// does.
func (s *Supervisor) Dial(ctx context.Context, m banger.Machine) (net.Conn, error) {
	for {
		conn, err := shim.Dial(ctx, m.Dir)
		if err == nil || !errors.Is(err, shim.ErrNoShim) || ctx.Err() != nil {
			return conn, err
		}
		if _, alive, aerr := s.Adopt(ctx, m, banger.Handles{}); aerr != nil || !alive {
			return nil, errors.Join(err, aerr)
		}
	}
}

// Wait asks the shim.
func (s *Supervisor) Wait(ctx context.Context, m banger.Machine, h banger.Handles) (banger.Exit, error) {
	for {
		exit, err := shim.Wait(ctx, m.Dir)
		if err == nil || ctx.Err() != nil {
			return exit, errors.Join(err, ctx.Err())
		}
		// The shim died, or nothing ever ran. If the VMM lives, start a new shim.
		var alive bool
		if h, alive, err = s.Adopt(ctx, m, h); err == nil && alive {
			continue
		}
		// A shim that somebody else started meanwhile may have seen the end and recorded it.
		if exit, err := shim.Wait(ctx, m.Dir); err == nil {
			return exit, nil
		}
		if alive {
			return banger.Exit{}, err
		}
		return banger.Exit{Kind: banger.ExitUnknown, Detail: "nothing was there to see it end", Status: -1, Time: time.Now()}, ctx.Err()
	}
}

// Kill asks the VMM to end, so that it flushes what its guest has written, and then kills
// it. It waits for the shim, and then kills that. Then it removes what they leave. It asks by
// SIGTERM: the VMM's own socket may be busy, and a request there would leave no record of why
// the VMM ended.
func (s *Supervisor) Kill(ctx context.Context, m banger.Machine, h banger.Handles) (banger.Handles, error) {
	left := h
	if err := s.end(ctx, m, h.VMM); err != nil {
		return left, err
	}
	if err := s.endShim(ctx, m, h.Shim); err != nil {
		return left, fmt.Errorf("end the shim of machine %s: %w", m.ID, err)
	}
	left.Shim = banger.Process{}
	// Again: the shim may have spawned its VMM meanwhile. It can't any more.
	if err := s.end(ctx, m, h.VMM); err != nil {
		return left, err
	}
	left.VMM = banger.Process{}
	if err := errors.Join(s.vmm.Clear(m, h), cgroup.Remove(ctx, filepath.Join(m.Dir, shim.GroupFile))); err != nil {
		return left, fmt.Errorf("remove what machine %s left: %w", m.ID, err)
	}
	left.RAMFile = ""
	return left, nil
}

// end ends the machine's VMM, if there is one, and waits until it is gone.
func (s *Supervisor) end(ctx context.Context, m banger.Machine, saved banger.Process) error {
	vmm, alive := s.find(ctx, m, saved)
	if !alive {
		return ctx.Err() // a search that was interrupted proves nothing
	}
	if err := proc.End(ctx, vmm, quitTimeout); err != nil {
		return fmt.Errorf("end the VMM of machine %s: %w", m.ID, err)
	}
	return nil
}

// endShim lets the machine's shim note how the VMM ended, and ends the shim. If a shim was
// killed while it spawned its VMM, its child may still look like a second shim: that one is
// ended, too.
func (s *Supervisor) endShim(ctx context.Context, m banger.Machine, saved banger.Process) error {
	for {
		p, alive := shim.Find(ctx, s.shim, m.Dir, saved)
		if !alive {
			return ctx.Err()
		}
		// SIGTERM undoes a start in progress; else a shim ignores it.
		if err := proc.End(ctx, p, noteTimeout); err != nil {
			return err
		}
	}
}

// Capture makes the shim disconnect from the channel and waits until the guest has seen
// that. Then it calls save, and ends VMM and shim.
func (s *Supervisor) Capture(ctx context.Context, m banger.Machine, h banger.Handles, save func() error) error {
	if err := shim.Release(ctx, m.Dir); err != nil {
		return fmt.Errorf("freeze machine %s: %w", m.ID, err)
	}
	if err := save(); err != nil {
		return fmt.Errorf("save machine %s: %w", m.ID, err)
	}
	if left, err := s.Kill(ctx, m, h); err != nil {
		return fmt.Errorf("end machine %s (%+v is left): %w", m.ID, left, err)
	}
	return nil
}

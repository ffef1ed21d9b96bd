package fake

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"

	"banger"
)

// Hypervisor is a banger.Hypervisor on the fake host.
type Hypervisor struct{ l *Life }

// Hypervisor returns this life's.
func (l *Life) Hypervisor() *Hypervisor { return &Hypervisor{l} }

// machine is what the host knows of a VM that runs.
type machine struct {
	banger.Machine
	vmm   banger.Process
	ended chan struct{} // closed when its VMM is gone

	frozen, restored bool               // frozen is guarded by Host.mu
	published        []banger.Published // guarded by Host.mu
}

// Start makes guest memory, shim and VMM, each a step, after the pause "start". It writes a line to the
// VM's console log, when its directory is there.
func (v *Hypervisor) Start(ctx context.Context, m banger.Machine) (banger.Handles, error) {
	h := v.l.host
	if left, err := v.Kill(ctx, m, banger.Handles{}); err != nil {
		return left, err
	}
	var held banger.Handles
	ram := filepath.Join(m.RAMDir, "banger-"+m.ID+".ram")
	err := errors.Join(ctx.Err(), v.locked(m.ID, "start ram", func() {
		h.files[ram], held.RAMFile = m.ID, ram
		delete(h.exits, m.ID)
	}))
	if err == nil {
		err = v.l.wait(ctx, m.ID, "start")
	}
	if err == nil {
		err = v.locked(m.ID, "start shim", func() { held.Shim = h.spawn("shim", m.ID) })
	}
	if err == nil {
		err = v.locked(m.ID, "start vmm", func() {
			held.VMM = h.spawn("vmm", m.ID)
			h.guests[m.ID] = &machine{Machine: m, vmm: held.VMM, ended: make(chan struct{})}
			if f, err := os.OpenFile(filepath.Join(m.Dir, "console.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err == nil {
				_, _ = f.WriteString("the fake guest " + m.ID + " boots\n")
				f.Close()
			}
		})
	}
	if err != nil {
		return banger.Handles{}, errors.Join(err, v.clear(m.ID))
	}
	return held, nil
}

// locked is a step that works on the host's tables.
func (v *Hypervisor) locked(vm, name string, effect func()) error {
	return v.l.step(vm, name, func() error {
		v.l.host.mu.Lock()
		defer v.l.host.mu.Unlock()
		effect()
		return nil
	})
}

// clear removes all a VM has but its disk, as a driver does on its own error.
func (v *Hypervisor) clear(vm string) error {
	return v.locked(vm, "clear", func() {
		v.l.host.end(vm, banger.Exit{Kind: banger.ExitKilled, Status: -1})
		v.l.host.remove(vm)
	})
}

// remove takes away a VM's processes and memory. h.mu is held.
func (h *Host) remove(vm string) {
	for pid, p := range h.procs {
		if p.vm == vm {
			delete(h.procs, pid)
		}
	}
	for path, owner := range h.files {
		if owner == vm {
			delete(h.files, path)
		}
	}
}

// Adopt finds a VM's processes by its socket, which is to say by whose they
// are, and replaces a dead shim.
func (v *Hypervisor) Adopt(ctx context.Context, m banger.Machine, saved banger.Handles) (banger.Handles, bool, error) {
	h := v.l.host
	alive := false
	err := v.locked(m.ID, "adopt", func() {
		shim := false
		for _, p := range h.procs {
			if p.vm != m.ID {
				continue
			}
			switch p.what {
			case "vmm":
				saved.VMM, alive = p.Process, true
			case "shim":
				saved.Shim, shim = p.Process, true
			}
		}
		if alive && !shim {
			saved.Shim = h.spawn("shim", m.ID)
		}
		for path, owner := range h.files {
			if owner == m.ID {
				saved.RAMFile = path
			}
		}
	})
	return saved, alive, errors.Join(err, ctx.Err())
}

// Dial opens a stream to the guest's agent, after the pause "dial".
func (v *Hypervisor) Dial(ctx context.Context, m banger.Machine) (net.Conn, error) {
	if err := v.l.wait(ctx, m.ID, "dial"); err != nil {
		return nil, err
	}
	h := v.l.host
	var near net.Conn
	err := v.locked(m.ID, "dial", func() {
		if g := h.guests[m.ID]; g != nil {
			a, b := net.Pipe()
			left := make(chan struct{})
			near = &stream{Conn: a, left: left}
			guest := &Guest{host: h, machine: g, Conn: b}
			serve := h.Agent
			if serve == nil {
				serve = (*Guest).serve
			}
			go serve(guest)
			go guest.cut(left)
		}
	})
	if err == nil && near == nil {
		err = banger.Errorf(banger.CodeUnavailable, "the guest %s isn't there", m.ID)
	}
	return near, errors.Join(err, ctx.Err())
}

// stream is the daemon's end of one, which its guest hears the closing of even
// when it reads nothing.
type stream struct {
	net.Conn
	once sync.Once
	left chan struct{}
}

func (s *stream) Close() error {
	s.once.Do(func() { close(s.left) })
	return s.Conn.Close()
}

// Wait returns how a VM's run ended, after the pause "wait".
func (v *Hypervisor) Wait(ctx context.Context, m banger.Machine, _ banger.Handles) (banger.Exit, error) {
	h := v.l.host
	v.l.mustLive()
	if err := v.l.wait(ctx, m.ID, "wait"); err != nil {
		return banger.Exit{}, err
	}
	h.mu.Lock()
	g := h.guests[m.ID]
	h.mu.Unlock()
	if g != nil {
		select {
		case <-g.ended:
		case <-ctx.Done():
			return banger.Exit{}, ctx.Err()
		case <-v.l.dead:
		}
		v.l.mustLive()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if x, ok := h.exits[m.ID]; ok {
		return x, nil
	}
	return banger.Exit{Kind: banger.ExitUnknown, Status: -1}, nil
}

// Kill ends a VM's VMM and shim and removes its memory, each a step, the pause
// "kill" between the first and the second. They are
// found by whose they are: a process that saved names may be anybody's.
func (v *Hypervisor) Kill(ctx context.Context, m banger.Machine, saved banger.Handles) (banger.Handles, error) {
	h := v.l.host
	left := saved
	err := v.locked(m.ID, "kill vmm", func() {
		h.end(m.ID, banger.Exit{Kind: banger.ExitKilled, Detail: "KILL", Status: -1})
		left.VMM = banger.Process{}
	})
	if err == nil {
		err = v.l.wait(ctx, m.ID, "kill")
	}
	if err == nil {
		err = v.locked(m.ID, "kill shim", func() {
			for pid, p := range h.procs {
				if p.vm == m.ID {
					delete(h.procs, pid)
				}
			}
			left.Shim = banger.Process{}
		})
	}
	if err == nil {
		err = v.locked(m.ID, "kill ram", func() {
			h.remove(m.ID)
			left = banger.Handles{}
		})
	}
	return left, errors.Join(err, ctx.Err())
}

// shoot kills the process that p identifies. h.mu is held.
func (h *Host) shoot(p banger.Process) {
	if !h.is(p) {
		return
	}
	if q := h.procs[p.PID]; q.vm == "" {
		h.crimes = append(h.crimes, "killed "+q.what)
	}
	delete(h.procs, p.PID)
}

// Shoot kills by process id alone, whoever that is by now: the deed a driver
// that trusts a bare id would do.
func (h *Host) Shoot(pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.procs[pid]; p != nil {
		h.shoot(p.Process)
	}
}

package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"banger/guest"
	"banger/guest/agent/nic"
	"banger/guest/agent/renew"
)

// Freeze brings the machine to its freeze point, or stops its processes when it runs
// already, until Configure. hungUp reports whether the host has disconnected from the
// channel.
func (m *Machine) Freeze(hungUp func() (bool, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.failed != nil:
		return m.failed
	case m.held != nil:
		return nil
	case m.Configured():
		return m.hold(hungUp)
	}
	if err := earlyLoaded(); err != nil {
		return err
	}
	m.early = nil // the stages of the template's own start aren't a VM's
	return renew.Freeze(hungUp, func() error {
		for _, l := range openModules("late") {
			l.load()
		}
		debug.FreeOSMemory() // each restored guest must map every page in use
		return nil
	})
}

// hold stops the processes of a running machine.
func (m *Machine) hold(hungUp func() (bool, error)) error {
	held, err := renew.Hold(hungUp, agentCgroup, isOurs)
	if err != nil {
		return fmt.Errorf("hold the guest: %w", err)
	}
	m.held = held
	debug.FreeOSMemory()
	return nil
}

// isOurs reports whether a process runs this program: PID 1 does where the image
// has no init.
func isOurs(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && (exe == agentPath || strings.HasPrefix(filepath.Base(exe), "init (deleted)"))
}

// reconfigure makes a held machine the one of id, and lets its processes go on. On error
// they never do: they would run under another machine's identity.
func (m *Machine) reconfigure(old *state, id guest.Identity) (guest.Ready, error) {
	ready, err := m.rename(old, id)
	if err == nil {
		id.Entropy = nil
		s := &state{id, ready}
		if err = s.save(); err == nil {
			m.done.Store(s)
			err = m.held.Release()
		}
	}
	if err != nil {
		logf("configure: %v", err)
		m.failed = err
		return guest.Ready{}, err
	}
	m.held = nil
	return ready, nil
}

// rename gives a held machine its new identity. Its drives stay: the host has put copies
// in their place.
func (m *Machine) rename(old *state, id guest.Identity) (guest.Ready, error) {
	w := newStopwatch()
	renewed, err := renew.Run(id, renew.Early())
	if err != nil {
		return guest.Ready{}, err
	}
	w.lap("clock, entropy")
	if err := nic.Reconfigure(old.Identity.Net, id.Net); err != nil {
		return guest.Ready{}, err
	}
	w.lap("network")
	if err := errors.Join(forgetName(old.Identity.Hostname), writeIdentity(id)); err != nil {
		return guest.Ready{}, err
	}
	settleIn(id)
	late, err := renew.Run(id, append(renew.Late(), m.held.Identify()...))
	if err != nil {
		return guest.Ready{}, err
	}
	bootID, err := renew.BootID()
	if err != nil {
		return guest.Ready{}, fmt.Errorf("renew %s: %w", guest.RenewBootID, err)
	}
	w.lap("identity")
	return guest.Ready{
		Agent: m.version, Init: old.Ready.Init, Stages: w.stages, DiskMiB: old.Ready.DiskMiB,
		Renewed: append(renewed, late...), BootID: bootID, Seen: renew.Look(),
	}, nil
}

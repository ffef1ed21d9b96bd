package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"banger"
)

// Publish makes these a VM's published ports: its shim has them, and so has every shim after
// that.
func (v *Hypervisor) Publish(ctx context.Context, m banger.Machine, _ []banger.Socket) error {
	h := v.l.host
	var clash error
	err := v.locked(m.ID, "publish", func() {
		switch {
		case h.guests[m.ID] == nil:
			clash = banger.Errorf(banger.CodeUnavailable, "the guest %s isn't there", m.ID)
		default:
			for vm, ports := range h.listening(h.procs) {
				if vm != m.ID && slices.ContainsFunc(ports, func(p banger.Published) bool { return slices.ContainsFunc(m.Ports, p.Clashes) }) {
					clash = banger.Errorf(banger.CodeConflict, "a port of %s is taken by %s", m.ID, vm)
				}
			}
			if clash == nil {
				h.guests[m.ID].published = slices.Clone(m.Ports)
			}
		}
	})
	return errors.Join(err, clash, ctx.Err())
}

// listening lists the ports that shims listen on, by VM. Host.mu is held.
func (r *runs) listening(procs map[int]*process) map[string][]banger.Published {
	all := map[string][]banger.Published{}
	for _, p := range procs {
		if g := r.guests[p.vm]; p.what == "shim" && g != nil {
			all[p.vm] = g.published
		}
	}
	return all
}

// Ports is the host's ports, as the daemon sees them.
func (l *Life) Ports() banger.HostPorts { return hostPorts{l} }

type hostPorts struct{ l *Life }

// Free says which port no shim has.
func (f hostPorts) Free(p banger.Published, used func(banger.Published) bool) (banger.Published, error) {
	h := f.l.host
	h.mu.Lock()
	defer h.mu.Unlock()
	free := func(p banger.Published) bool {
		for _, ports := range h.listening(h.procs) {
			if slices.ContainsFunc(ports, p.Clashes) {
				return false
			}
		}
		return !used(p)
	}
	if p.Port != 0 {
		if !free(p) {
			return p, banger.Errorf(banger.CodeConflict, "port %d is taken", p.Port)
		}
		return p, nil
	}
	for p.Port = 40000; !free(p); p.Port++ {
	}
	return p, nil
}

// Take finds out that the ports are free. Nothing of this host can wait at one.
func (f hostPorts) Take(_ string, ports []banger.Published) ([]banger.Socket, error) {
	for _, p := range ports {
		if _, err := f.Free(p, func(banger.Published) bool { return false }); err != nil {
			return nil, fmt.Errorf("take: %w", err)
		}
	}
	return nil, nil
}

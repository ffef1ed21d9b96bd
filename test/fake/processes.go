package fake

import (
	"banger"
)

// Processes is a banger.Processes on the fake host.
type Processes struct{ l *Life }

// Processes returns this life's.
func (l *Life) Processes() *Processes { return &Processes{l} }

// Signal is the step "signal NAME". STOP and CONT do nothing here.
func (p *Processes) Signal(who banger.Process, signal string) error {
	h := p.l.host
	vm := h.owner(who)
	return p.l.step(vm, "signal "+signal, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.is(who) || signal == "STOP" || signal == "CONT" {
			return nil
		}
		if q := h.procs[who.PID]; q.what == "vmm" {
			h.end(q.vm, banger.Exit{Kind: banger.ExitKilled, Detail: signal, Status: -1})
			return nil
		}
		h.shoot(who)
		return nil
	})
}

// owner returns whose a process is; empty: no VM's.
func (h *Host) owner(p banger.Process) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.is(p) {
		return ""
	}
	return h.procs[p.PID].vm
}

// Usage is the same for every process that lives.
func (p *Processes) Usage(who banger.Process) (banger.Usage, error) {
	h := p.l.host
	p.l.mustLive()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.is(who) {
		return banger.Usage{}, banger.Errorf(banger.CodeNotRunning, "process %d has ended", who.PID)
	}
	return banger.Usage{CPUMS: 1000, RSS: 64 << 20, PSS: 48 << 20, Shared: 32 << 20, Private: 32 << 20}, nil
}

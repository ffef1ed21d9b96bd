package fake

import (
	"time"

	"banger"
)

// Processes is a banger.Processes on the fake host.
type Processes struct{ l *Life }

// Processes returns this life's.
func (l *Life) Processes() *Processes { return &Processes{l} }

// Signal is the step "signal NAME". STOP and CONT do nothing here.
func (p *Processes) Signal(who banger.Process, signal string) error {
	h := p.l.host
	return p.l.Step("signal "+signal, func() error {
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

// Usage is the same for every process that lives.
func (p *Processes) Usage(who banger.Process) (banger.Usage, error) {
	h := p.l.host
	p.l.mustLive()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.is(who) {
		return banger.Usage{}, banger.Errorf(banger.CodeNotRunning, "process %d has ended", who.PID)
	}
	return banger.Usage{CPU: time.Second, RSS: 64 << 20, PSS: 48 << 20, Shared: 32 << 20, Private: 32 << 20}, nil
}

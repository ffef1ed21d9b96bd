package engine_test

import (
	"sync"
	"time"
)

// pauses hold up what the VM "it" and its drivers do. Old is never held up.
type pauses struct {
	mu     sync.Mutex
	seen   []pause       // what could have been held up, in order
	takes  time.Duration // a guest's own shutdown, once it has agreed to it
	held   *hold
	spared string // old's id
}

// pause is one thing that may take long: what it is, and how often there was one
// like it, counted from 1.
type pause struct {
	what string
	nth  int
}

// hold is what is done at a pause.
type hold struct {
	at      pause
	lasts   time.Duration
	fails   error // how it ends
	reached chan struct{}
}

// reset begins the count of pauses anew, with one of them held up; nil: none.
func (p *pauses) reset(h *hold) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.held = nil, h
}

// take sets how long a guest's own shutdown takes, once it has agreed to it.
func (p *pauses) take(takes time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.takes = takes
}

// spare leaves a VM alone.
func (p *pauses) spare(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spared = id
}

// passed lists what could have been held up.
func (p *pauses) passed() []pause {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// pause is the host's Pause.
func (w *world) pause(vm, what string) <-chan error {
	p := &w.pauses
	p.mu.Lock()
	defer p.mu.Unlock()
	if vm == p.spared {
		return nil
	}
	this := pause{what, 1}
	for _, s := range p.seen {
		if s.what == what {
			this.nth++
		}
	}
	p.seen = append(p.seen, this)
	var lasts time.Duration
	var fails error
	if what == "poweroff" {
		lasts = p.takes
	}
	if h := p.held; h != nil && h.at == this {
		lasts, fails = max(lasts, h.lasts), h.fails
		close(h.reached)
	}
	if lasts == 0 && fails == nil {
		return nil
	}
	over := make(chan error, 1)
	time.AfterFunc(lasts, func() { over <- fails })
	return over
}

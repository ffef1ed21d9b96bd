package fake

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"sync"

	"banger"
)

// Fate is what happens at a point of a life.
type Fate int

// The fates.
const (
	Live Fate = iota // go on
	Fail             // the step reports ErrInjected; before it: without its effect
	Die              // the daemon is gone: no later step of this life has any effect
)

// ErrInjected is the error of a step that was told to fail.
var ErrInjected = errors.New("injected failure")

// Life is one daemon's view of a host: from its start to its death. The drivers
// and the store a daemon uses all belong to one life.
//
// A goroutine that takes a step in a dead life ends there (runtime.Goexit), so
// a test runs the daemon's calls in goroutines of their own and waits for
// either their result or Dead.
type Life struct {
	host  *Host
	fate  func(vm, point string) Fate
	dead  chan struct{}
	once  sync.Once
	steps chan struct{} // one step at a time, so that points come in one order; no mutex, for a bubble's time passes while one waits
}

// Live begins a life. fate is asked at every point, "before X" and "after X"
// for each step X; nil: nothing happens.
func (h *Host) Live(fate func(point string) Fate) *Life {
	if fate == nil {
		return h.LiveOf(nil)
	}
	return h.LiveOf(func(_, point string) Fate { return fate(point) })
}

// LiveOf is Live, with a fate that is told whose step it is, too: a VM's id, or
// nothing where that isn't known.
func (h *Host) LiveOf(fate func(vm, point string) Fate) *Life {
	if fate == nil {
		fate = func(_, _ string) Fate { return Live }
	}
	return &Life{host: h, fate: fate, dead: make(chan struct{}), steps: make(chan struct{}, 1)}
}

// Dead is closed when the life is over.
func (l *Life) Dead() <-chan struct{} { return l.dead }

// Kill ends the life from outside: kill -9 of the daemon. It returns when no
// step is under way: a process is not gone before the system call it is in.
func (l *Life) Kill() {
	l.die()
	l.steps <- struct{}{}
	defer func() { <-l.steps }()
}

func (l *Life) die() { l.once.Do(func() { close(l.dead) }) }

// Step does one named effect, unless its fate is another.
func (l *Life) Step(name string, effect func() error) error { return l.step("", name, effect) }

// step is Step, of a VM.
func (l *Life) step(vm, name string, effect func() error) error {
	l.steps <- struct{}{}
	defer func() { <-l.steps }()
	if err := l.at(vm, "before "+name); err != nil {
		return err
	}
	err := effect()
	if e := l.at(vm, "after "+name); e != nil {
		return e
	}
	return err
}

func (l *Life) at(vm, point string) error {
	l.mustLive()
	switch l.fate(vm, point) {
	case Fail:
		return ErrInjected
	case Die:
		l.die()
		l.mustLive()
	}
	return nil
}

// wait takes the time that Host.Pause says something takes, or until ctx or the
// life ends.
func (l *Life) wait(ctx context.Context, vm, what string) error {
	over := l.host.pause(vm, what)
	if over == nil {
		return nil
	}
	select {
	case err := <-over:
		l.mustLive()
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-l.dead:
		l.mustLive()
		return nil
	}
}

func (l *Life) mustLive() {
	select {
	case <-l.dead:
		runtime.Goexit()
	default:
	}
}

// Store makes every write of a store a step of this life.
func (l *Life) Store(s banger.Store) banger.Store { return living{s, l} }

type living struct {
	banger.Store
	l *Life
}

// Commit is the step "commit STATES PLAN".
func (s living) Commit(ctx context.Context, vms []banger.VM, plan *banger.Plan, durable bool) error {
	name := "commit"
	for _, vm := range vms {
		name += " " + cmp.Or(string(vm.State), "gone")
	}
	if plan != nil {
		name += " " + string(plan.Kind)
		if n := len(plan.Begun); n > 0 {
			name += " " + plan.Begun[n-1]
		}
	}
	of := ""
	if len(vms) == 1 {
		of = vms[0].ID
	}
	return s.l.step(of, name, func() error { return s.Store.Commit(ctx, vms, plan, durable) })
}

// PutImage is the step "put image".
func (s living) PutImage(ctx context.Context, img banger.Image, replace bool) error {
	return s.l.Step("put image", func() error { return s.Store.PutImage(ctx, img, replace) })
}

// DeleteImage is the step "delete image".
func (s living) DeleteImage(ctx context.Context, name string) error {
	return s.l.Step("delete image", func() error { return s.Store.DeleteImage(ctx, name) })
}

// DeleteKernel is the step "delete kernel".
func (s living) DeleteKernel(ctx context.Context, id string) error {
	return s.l.Step("delete kernel", func() error { return s.Store.DeleteKernel(ctx, id) })
}

// PutKernel is the step "put kernel".
func (s living) PutKernel(ctx context.Context, k banger.Kernel) error {
	return s.l.Step("put kernel", func() error { return s.Store.PutKernel(ctx, k) })
}

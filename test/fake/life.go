package fake

import (
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
	fate  func(point string) Fate
	dead  chan struct{}
	once  sync.Once
	steps sync.Mutex // one step at a time, so that points come in one order
}

// Live begins a life. fate is asked at every point, "before X" and "after X"
// for each step X; nil: nothing happens.
func (h *Host) Live(fate func(point string) Fate) *Life {
	if fate == nil {
		fate = func(string) Fate { return Live }
	}
	return &Life{host: h, fate: fate, dead: make(chan struct{})}
}

// Dead is closed when the life is over.
func (l *Life) Dead() <-chan struct{} { return l.dead }

// Kill ends the life from outside: kill -9 of the daemon. It returns when no
// step is under way: a process is not gone before the system call it is in.
func (l *Life) Kill() {
	l.die()
	l.steps.Lock()
	defer l.steps.Unlock()
}

func (l *Life) die() { l.once.Do(func() { close(l.dead) }) }

// Step does one named effect, unless its fate is another.
func (l *Life) Step(name string, effect func() error) error {
	l.steps.Lock()
	defer l.steps.Unlock()
	if err := l.at("before " + name); err != nil {
		return err
	}
	err := effect()
	if e := l.at("after " + name); e != nil {
		return e
	}
	return err
}

func (l *Life) at(point string) error {
	l.mustLive()
	switch l.fate(point) {
	case Fail:
		return ErrInjected
	case Die:
		l.die()
		l.mustLive()
	}
	return nil
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

// Commit is the step "commit STATE OPERATION".
func (s living) Commit(ctx context.Context, vm banger.VM, op *banger.Op, durable bool) error {
	name := "commit " + string(vm.State)
	if vm.State == banger.Gone {
		name = "commit gone"
	}
	if op != nil {
		name += " " + string(op.Kind)
		if n := len(op.Begun); n > 0 {
			name += " " + op.Begun[n-1]
		}
	}
	return s.l.Step(name, func() error { return s.Store.Commit(ctx, vm, op, durable) })
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

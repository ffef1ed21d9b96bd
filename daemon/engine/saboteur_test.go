package engine_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/fake"
)

// The tests of the test: each saboteur makes one of the mistakes that the order
// of things is there to prevent, and the search must notice.
func TestSaboteursAreCaught(t *testing.T) {
	for name, plant := range map[string]func(*world){
		"records a move after its effect": func(w *world) { w.sabotageStore = func(s banger.Store) banger.Store { return &late{Store: s} } },
		"undoes finished moves only":      func(w *world) { w.sabotageStore = func(s banger.Store) banger.Store { return finishedOnly{s} } },
		"deletes without recorded intent": func(w *world) { w.sabotageStore = func(s banger.Store) banger.Store { return noIntent{s} } },
		"forgets before it has seen gone": func(w *world) {
			w.sabotageHost = func(_ *fake.Host, h banger.Hypervisor) banger.Hypervisor { return forgetful{h} }
		},
		"takes a busy disk for detached": func(w *world) {
			w.sabotageDisks = func(_ *fake.Host, d banger.Disks) banger.Disks { return carelessDisks{d} }
		},
		"leaves the TAP to a second try": func(w *world) {
			w.sabotageNet = func(_ *fake.Host, n banger.Networks) banger.Networks { return carelessNet{n} }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			plant(w)
			deaths, wrong := search(w, false)
			if wrong == "" {
				wrong = failures(w)
			}
			if wrong == "" {
				t.Fatalf("not caught by %d deaths", deaths)
			}
			first, _, _ := strings.Cut(wrong, "\n  ")
			t.Logf("caught: %s", first)
		})
	}
}

// late holds back every plan that grew until the next write.
type late struct {
	banger.Store
	mu   sync.Mutex
	held func() error
}

func (s *late) Commit(ctx context.Context, vm banger.VM, op *banger.Op, durable bool) error {
	s.mu.Lock()
	held := s.held
	s.held = nil
	s.mu.Unlock()
	if held != nil {
		if err := held(); err != nil {
			return err
		}
	}
	write := func() error { return s.Store.Commit(ctx, vm, op, durable) }
	if op == nil || len(op.Begun) == 0 || op.Kind == banger.OpStop || op.Kind == banger.OpDelete {
		return write()
	}
	s.mu.Lock()
	s.held = write
	s.mu.Unlock()
	return nil
}

// finishedOnly forgets the last move of a plan that built something: nobody
// knows whether it finished.
type finishedOnly struct{ banger.Store }

func (s finishedOnly) Ops(ctx context.Context) ([]banger.Op, error) {
	ops, err := s.Store.Ops(ctx)
	for i, op := range ops {
		if n := len(op.Begun); n > 0 && (op.Kind == banger.OpCreate || op.Kind == banger.OpStart) {
			ops[i].Begun = op.Begun[:n-1]
		}
	}
	return ops, err
}

// noIntent doesn't write down that a VM is about to be deleted.
type noIntent struct{ banger.Store }

func (s noIntent) Commit(ctx context.Context, vm banger.VM, op *banger.Op, durable bool) error {
	if op != nil && op.Kind == banger.OpDelete {
		return nil
	}
	return s.Store.Commit(ctx, vm, op, durable)
}

// forgetful takes a kill that failed for one that worked.
type forgetful struct{ banger.Hypervisor }

func (h forgetful) Kill(ctx context.Context, m banger.Machine, held banger.Handles) (banger.Handles, error) {
	_, _ = h.Hypervisor.Kill(ctx, m, held)
	return banger.Handles{}, nil
}

// failures lets every step fail once and returns the first thing wrong.
func failures(w *world) string {
	for _, v := range verbs {
		for i := 0; ; i++ {
			bad, n, _ := fail(w, v, i)
			if bad != nil {
				return v.name + ":\n  " + strings.Join(bad, "\n  ")
			}
			if i >= n {
				break
			}
		}
	}
	return ""
}

// A process id is recycled while the daemon is dead: by a stranger, on the same
// boot or after the next. A driver that kills by the bare id, or believes
// handles of another boot, is caught by the stranger's death.
func TestStrangersAreSafe(t *testing.T) {
	for name, c := range map[string]struct {
		reboot, sabotage bool
	}{
		"recycled":                     {},
		"recycled, and a saboteur":     {sabotage: true},
		"another boot":                 {reboot: true},
		"another boot, and a saboteur": {reboot: true, sabotage: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.sabotage {
				w.sabotageHost = func(h *fake.Host, hv banger.Hypervisor) banger.Hypervisor { return bareID{hv, h} }
			}
			d := w.open(nil)
			vm, err := d.CreateVM(t.Context(), banger.Spec{}, true, nil)
			if err != nil {
				t.Fatal(err)
			}
			d.kill()
			if c.reboot {
				w.host.Reboot()
				for w.host.Stranger("sshd") < vm.Held.VMM.PID {
				}
			} else {
				w.host.Recycle(vm.Held.VMM.PID)
			}
			d = w.open(nil)
			w.settled(d)
			bad := w.check(d)
			got, err := d.VM(t.Context(), vm.ID)
			if err != nil {
				t.Fatal(err)
			}
			d.kill()
			if c.sabotage {
				if bad == nil {
					t.Fatal("not caught")
				}
				return
			}
			report(t, bad, "%s", name)
			if got.State != banger.Stopped || got.Exit == nil {
				t.Errorf("got %s, exit %v", got.State, got.Exit)
			}
			if c.reboot && !strings.Contains(got.Reason, "restarted") {
				t.Errorf("the reason is %q", got.Reason)
			}
		})
	}
}

// bareID kills by process id alone.
type bareID struct {
	banger.Hypervisor
	host *fake.Host
}

func (h bareID) Kill(ctx context.Context, m banger.Machine, held banger.Handles) (banger.Handles, error) {
	if held.VMM.PID != 0 {
		h.host.Shoot(held.VMM.PID)
	}
	return h.Hypervisor.Kill(ctx, m, held)
}

// carelessDisks and carelessNet take an undo that failed for one that worked.
type carelessDisks struct{ banger.Disks }

func (d carelessDisks) Detach(ctx context.Context, id, dir string, held banger.Handles) (banger.Handles, error) {
	_, _ = d.Disks.Detach(ctx, id, dir, held)
	return banger.Handles{}, nil
}

type carelessNet struct{ banger.Networks }

func (n carelessNet) CleanUp(ctx context.Context, id string, held banger.Handles) (banger.Handles, error) {
	_, _ = n.Networks.CleanUp(ctx, id, held)
	return banger.Handles{}, nil
}

// While the daemon is dead, the host restarts and strangers take the names that
// the record knows. Drivers that go by a VM's own names leave them alone; one
// that removes what the record names is caught.
func TestLookAlikesAreSafe(t *testing.T) {
	for name, sabotage := range map[string]bool{"drivers": false, "a saboteur": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if sabotage {
				w.sabotageDisks = func(h *fake.Host, d banger.Disks) banger.Disks { return byRecord{d, h} }
			}
			d := w.open(nil)
			vm, err := d.CreateVM(t.Context(), banger.Spec{}, true, nil)
			must(t, err)
			d.kill()
			w.host.Reboot()
			must(t, w.host.Plant("loop", vm.Held.COWLoop))
			must(t, w.host.Plant("dm", vm.Held.DMName+"-backup"))
			must(t, w.host.Plant("tap", vm.Held.Tap+"0"))
			d = w.open(nil)
			w.settled(d)
			bad := w.check(d)
			d.kill()
			if sabotage {
				if bad == nil {
					t.Fatal("not caught")
				}
				return
			}
			report(t, bad, "look-alikes")
			for _, thing := range []string{vm.Held.COWLoop, vm.Held.DMName + "-backup", vm.Held.Tap + "0"} {
				if !strings.Contains(w.host.String(), " "+thing+" of \"\"") {
					t.Errorf("%s is gone:\n%v", thing, w.host)
				}
			}
		})
	}
}

// byRecord removes what the record names, whoever has it now.
type byRecord struct {
	banger.Disks
	host *fake.Host
}

func (d byRecord) Detach(ctx context.Context, id, dir string, held banger.Handles) (banger.Handles, error) {
	for _, name := range []string{held.COWLoop, held.DMName} {
		d.host.Unplug(name)
	}
	return d.Disks.Detach(ctx, id, dir, held)
}

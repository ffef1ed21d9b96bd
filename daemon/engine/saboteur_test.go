package engine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/test/fake"
)

// The tests of the test: each saboteur makes one of the mistakes that the order
// of things is there to prevent, and a search must notice.
func TestSaboteursAreCaught(t *testing.T) {
	store := func(wrap func(banger.Store) banger.Store) sabotage {
		return sabotage{store: func(_ *world, s banger.Store) banger.Store { return wrap(s) }}
	}
	plans := func(spoil func(p *banger.Plan)) sabotage {
		return store(func(s banger.Store) banger.Store { return spoiler{s, spoil} })
	}
	for name, c := range map[string]struct {
		sabotage
		by string // the search that is tried first
	}{
		"records a move after its effect": {store(func(s banger.Store) banger.Store { return &late{Store: s} }), "death"},
		"undoes finished moves only":      {store(func(s banger.Store) banger.Store { return finishedOnly{s} }), "death"},
		"deletes without recorded intent": {store(func(s banger.Store) banger.Store { return noIntent{s} }), "death"},
		"forgets before it has seen gone": {sabotage{host: func(_ *world, h banger.Hypervisor) banger.Hypervisor { return forgetful{h.(capturing)} }}, "failure"},
		"takes a busy disk for detached":  {sabotage{disks: func(_ *world, d banger.Disks) banger.Disks { return carelessDisks{d.(cloning)} }}, "wait"},
		"leaves the TAP to a second try":  {sabotage{net: func(_ *world, n banger.Networks) banger.Networks { return carelessNet{n} }}, "failure"},

		"acknowledges what may be lost":          {store(func(s banger.Store) banger.Store { return hasty{s, func(p *banger.Plan) bool { return p == nil }} }), "power cut"},
		"makes files by a plan that may be lost": {store(func(s banger.Store) banger.Store { return hasty{s, func(p *banger.Plan) bool { return p != nil }} }), "power cut"},
		"forgets that it was to start again": {plans(func(p *banger.Plan) {
			if p.Direction == banger.Again {
				p.Kind, p.Direction = banger.PlanStop, banger.Forward
			}
		}), "graceful end"},
		"forgets how long a guest was promised": {plans(func(p *banger.Plan) { p.Timeout = 0 }), "death"},
		"forgets that a guest isn't asked":      {plans(func(p *banger.Plan) { p.Force = false }), "death"},
		"forgets that it was to boot":           {plans(func(p *banger.Plan) { p.Cold = false }), "death"},
		"forgets plans that it doesn't know":    {store(func(s banger.Store) banger.Store { return narrow{s} }), "an unknown plan"},
		"takes a wait that failed for an end":   {sabotage{host: func(_ *world, h banger.Hypervisor) banger.Hypervisor { return rash{h.(capturing)} }}, "wait"},
		"doesn't hear who holds a VM":           {sabotage{lease: func(banger.Leases) banger.Leases { return deaf{} }}, "lease"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, by := range append([]string{c.by}, slices.Sorted(maps.Keys(tries))...) {
				wrong := ""
				inBubble(t, func(t *testing.T, w *world) {
					w.warm, w.sabotage = true, c.sabotage
					wrong = tries[by](w)
				})
				if wrong != "" {
					first, rest, _ := strings.Cut(wrong, "\n  ")
					t.Logf("caught by %s: %s %.150s", by, first, rest)
					return
				}
			}
			t.Error("not caught")
		})
	}
}

// tries is all that may catch a saboteur.
var tries = map[string]func(*world) string{
	"lease":           leases,
	"an unknown plan": func(w *world) string { return said(unknown(w, "of a kind"), "a plan that isn't known") },
	"death":           byVerbs(dies(0)),
	"graceful end":    byVerbs(closes),
	"wait":            byVerbs(waitEverywhere),
	"power cut":       byVerbs(cuts),
	"failure":         byVerbs(fails),
}

func byVerbs(s search) func(*world) string {
	return func(w *world) string {
		for _, v := range verbs {
			if wrong := s(w, v, func(string) {}); wrong != "" {
				return fmt.Sprintf("%s, %s", v.name, wrong)
			}
		}
		return ""
	}
}

// spoiler writes down something else than was planned.
type spoiler struct {
	banger.Store
	spoil func(*banger.Plan)
}

func (s spoiler) Commit(ctx context.Context, vms []banger.VM, plan *banger.Plan, durable bool) error {
	if plan != nil {
		p := *plan
		s.spoil(&p)
		plan = &p
	}
	return s.Store.Commit(ctx, vms, plan, durable)
}

// hasty doesn't wait until something is durable.
type hasty struct {
	banger.Store
	which func(*banger.Plan) bool
}

func (s hasty) Commit(ctx context.Context, vms []banger.VM, plan *banger.Plan, durable bool) error {
	return s.Store.Commit(ctx, vms, plan, durable && !s.which(plan))
}

// narrow reads only what it knows.
type narrow struct{ banger.Store }

func (s narrow) Plans(ctx context.Context) ([]banger.Plan, error) {
	plans, err := s.Store.Plans(ctx)
	return slices.DeleteFunc(plans, func(p banger.Plan) bool { return p.Kind == "snapshot" }), err
}

// rash believes that a machine whose end it couldn't wait for has ended.
type rash struct{ capturing }

func (h rash) Wait(ctx context.Context, m banger.Machine, held banger.Handles) (banger.Exit, error) {
	x, err := h.capturing.Wait(ctx, m, held)
	if errors.Is(err, fake.ErrInjected) {
		return banger.Exit{Kind: banger.ExitUnknown, Status: -1}, nil
	}
	return x, err
}

// deaf holds nothing.
type deaf struct{}

func (deaf) HoldVM(ctx context.Context, _ string, _ func()) error {
	<-ctx.Done()
	return nil
}

// late holds back every plan that grew until the next write.
type late struct {
	banger.Store
	mu   sync.Mutex
	held func() error
}

func (s *late) Commit(ctx context.Context, vms []banger.VM, plan *banger.Plan, durable bool) error {
	s.mu.Lock()
	held := s.held
	s.held = nil
	s.mu.Unlock()
	if held != nil {
		if err := held(); err != nil {
			return err
		}
	}
	write := func() error { return s.Store.Commit(ctx, vms, plan, durable) }
	if plan == nil || len(plan.Begun) == 0 || plan.Kind == banger.PlanStop || plan.Kind == banger.PlanDelete {
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

func (s finishedOnly) Plans(ctx context.Context) ([]banger.Plan, error) {
	plans, err := s.Store.Plans(ctx)
	for i, plan := range plans {
		if n := len(plan.Begun); n > 0 && (plan.Kind == banger.PlanCreate || plan.Kind == banger.PlanStart) {
			plans[i].Begun = plan.Begun[:n-1]
		}
	}
	return plans, err
}

// noIntent doesn't write down that a VM is about to be deleted.
type noIntent struct{ banger.Store }

func (s noIntent) Commit(ctx context.Context, vms []banger.VM, plan *banger.Plan, durable bool) error {
	if plan != nil && plan.Kind == banger.PlanDelete {
		return nil
	}
	return s.Store.Commit(ctx, vms, plan, durable)
}

// capturing is what drivers are here, so that their saboteurs are, too.
type (
	capturing interface {
		banger.Hypervisor
		banger.Capturer
		banger.Publisher
	}
	cloning interface {
		banger.Disks
		banger.Cloner
	}
)

// forgetful takes a kill that failed for one that worked.
type forgetful struct{ capturing }

func (h forgetful) Kill(ctx context.Context, m banger.Machine, held banger.Handles) (banger.Handles, error) {
	_, _ = h.capturing.Kill(ctx, m, held)
	return banger.Handles{}, nil
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
				w.sabotage.host = func(w *world, hv banger.Hypervisor) banger.Hypervisor { return bareID{hv, w.host} }
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
type carelessDisks struct{ cloning }

func (d carelessDisks) Detach(ctx context.Context, id, dir string, held banger.Handles) (banger.Handles, error) {
	_, _ = d.cloning.Detach(ctx, id, dir, held)
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
				w.sabotage.disks = func(w *world, d banger.Disks) banger.Disks { return byRecord{d, w.host} }
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

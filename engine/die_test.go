package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/fake"
)

// verb is one operation of a client and what its acknowledgement promises.
type verb struct {
	name    string
	prepare func(*world, *daemon) // before anything dies
	call    func(context.Context, *daemon) error
	after   func(found *banger.VM) bool // may the VM "it" be so, once the call was acknowledged
}

func is(state banger.State) func(*banger.VM) bool {
	return func(vm *banger.VM) bool { return vm != nil && vm.State == state }
}

func gone(vm *banger.VM) bool { return vm == nil }

func create(start bool) func(context.Context, *daemon) error {
	return func(ctx context.Context, d *daemon) error {
		_, err := d.CreateVM(ctx, banger.Spec{Name: "it"}, start, nil)
		return err
	}
}

func remove(ctx context.Context, d *daemon) error { return d.DeleteVM(ctx, "it") }

// ends lets the guest end by itself and waits for what comes of it.
func ends(kind banger.ExitKind, wanted func(banger.VM) bool) func(context.Context, *daemon) error {
	return func(ctx context.Context, d *daemon) error {
		vm, err := d.VM(ctx, "it")
		if err != nil {
			return err
		}
		d.host.EndGuest(vm.ID, banger.Exit{Kind: kind})
		return d.until("it", wanted)
	}
}

func made(start bool) func(*world, *daemon) {
	return func(w *world, d *daemon) {
		if err := create(start)(context.Background(), d); err != nil {
			w.t.Fatal(err)
		}
	}
}

var verbs = []verb{
	{"create", nil, create(true), is(banger.Running)},
	{"create without start", nil, create(false), is(banger.Stopped)},
	{"start", made(false), func(ctx context.Context, d *daemon) error {
		_, err := d.StartVM(ctx, "it", nil)
		return err
	}, is(banger.Running)},
	{"stop", made(true), func(ctx context.Context, d *daemon) error {
		_, err := d.StopVM(ctx, "it", banger.StopOptions{})
		return err
	}, is(banger.Stopped)},
	{"kill", made(true), func(ctx context.Context, d *daemon) error {
		_, err := d.StopVM(ctx, "it", banger.StopOptions{Force: true})
		return err
	}, is(banger.Stopped)},
	{"kill by signal", made(true), func(ctx context.Context, d *daemon) error {
		_, err := d.KillVM(ctx, "it", "KILL")
		return err
	}, is(banger.Stopped)},
	{"restart", made(true), func(ctx context.Context, d *daemon) error {
		_, err := d.RestartVM(ctx, "it", banger.StopOptions{}, nil)
		return err
	}, func(vm *banger.VM) bool { return vm != nil && vm.State == banger.Running && vm.Boots == 2 }},
	{"restart stopped", made(false), func(ctx context.Context, d *daemon) error {
		_, err := d.RestartVM(ctx, "it", banger.StopOptions{}, nil)
		return err
	}, is(banger.Running)},
	{"set", made(true), func(ctx context.Context, d *daemon) error {
		_, err := d.SetVM(ctx, "it", banger.Change{VCPU: 3, MemoryMiB: 512, DiskMiB: 4096})
		return err
	}, func(vm *banger.VM) bool {
		return vm != nil && vm.State == banger.Running && vm.Spec.VCPU == 3 && vm.Spec.MemoryMiB == 512 && vm.Spec.DiskMiB == 4096
	}},
	{"rename", made(false), func(ctx context.Context, d *daemon) error {
		if _, err := d.SetVM(ctx, "it", banger.Change{Name: "that"}); err != nil {
			return err
		}
		_, err := d.SetVM(ctx, "that", banger.Change{Name: "it"})
		return err
	}, is(banger.Stopped)},
	{"prune", made(false), func(ctx context.Context, d *daemon) error { return d.PruneVM(ctx, "it") }, gone},
	{"guest powers off", made(true), ends(banger.ExitPoweroff, func(vm banger.VM) bool { return vm.State == banger.Stopped }), is(banger.Stopped)},
	{"guest reboots", made(true), ends(banger.ExitReboot, func(vm banger.VM) bool {
		return vm.Boots == 2 && (vm.State == banger.Running || vm.State == banger.Stopped)
	}), func(vm *banger.VM) bool { return vm != nil }},
	{"delete running", made(true), remove, gone},
	{"delete stopped", made(false), remove, gone},
}

// script decides what happens at which point, counting them.
type script struct {
	mu     sync.Mutex
	points []string
	at     int // the point at which fate strikes; -1: never
	fate   fake.Fate
}

func (s *script) decide(point string) fake.Fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points = append(s.points, point)
	if len(s.points)-1 == s.at {
		return s.fate
	}
	return fake.Live
}

// arm begins the count anew and strikes at point i; -1: never again.
func (s *script) arm(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points, s.at = nil, i
}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.points)
}

// trial is one run of a verb on the VM "it", beside an acknowledged VM "old"
// that runs through all trials.
type trial struct {
	w *world
	v verb
}

func newTrial(w *world, v verb) *trial {
	t := &trial{w: w, v: v}
	d := w.open(nil)
	defer d.kill()
	if w.old.ID == "" {
		var err error
		if w.old, err = d.CreateVM(context.Background(), banger.Spec{Name: "old"}, true, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	if v.prepare != nil {
		v.prepare(w, d)
	}
	return t
}

// end checks the world with a last daemon and clears it for the next trial.
func (t *trial) end(d *daemon, acknowledged, failed bool) []string {
	w := t.w
	w.settled(d)
	bad := w.check(d)
	find := func(name string) *banger.VM {
		vm, err := d.VM(context.Background(), name)
		if err != nil {
			return nil
		}
		return &vm
	}
	if old := find("old"); old == nil || old.State != banger.Running || old.Held.VMM != w.old.Held.VMM {
		bad = append(bad, fmt.Sprintf("the running VM was lost: %+v", old))
	}
	it := find("it")
	if acknowledged && !t.v.after(it) {
		bad = append(bad, fmt.Sprintf("acknowledged, and then: %+v", it))
	}
	if failed && strings.HasPrefix(t.v.name, "create") && it != nil {
		bad = append(bad, fmt.Sprintf("refused, and yet: %+v", it))
	}
	if it != nil && it.State == banger.Running && bad == nil {
		if conn, err := d.Dial(context.Background(), "it"); err != nil {
			bad = append(bad, fmt.Sprintf("a running VM doesn't answer: %v", err))
		} else {
			conn.Close()
		}
	}
	if err := d.DeleteVM(context.Background(), "that"); err != nil && banger.CodeOf(err) != banger.CodeNotFound {
		bad = append(bad, fmt.Sprintf("the renamed one can't be deleted: %v", err))
	}
	if it != nil {
		if err := d.DeleteVM(context.Background(), "it"); err != nil && banger.CodeOf(err) != banger.CodeNotFound {
			bad = append(bad, fmt.Sprintf("and it can't be deleted: %v", err))
		}
	}
	bad = append(bad, w.check(d)...)
	d.kill()
	return bad
}

// die kills the daemon at point i of the verb, the next one at point j of its
// recovery (-1: not), and reports what is wrong in the end, and how many points
// each had. A count not above its index means that nothing happened there.
func die(w *world, v verb, i, j int) (bad []string, during, recovery int) {
	t := newTrial(w, v)
	first := &script{at: -1, fate: fake.Die}
	d := w.open(first.decide)
	first.arm(i) // its own recovery isn't what we are after
	err := d.call(v)
	d.kill()
	second := &script{at: j, fate: fake.Die}
	d = w.open(second.decide)
	if j >= 0 {
		d.kill()
		d = w.open(nil)
	}
	bad = t.end(d, err == nil, false)
	return bad, first.count(), second.count()
}

// search kills the daemon everywhere and returns how many deaths it tried, and
// the first thing that was wrong. With deep, every recovery is killed at each of
// its points too.
func search(w *world, deep bool) (deaths int, wrong string) {
	for _, v := range verbs {
		for i := 0; ; i++ {
			bad, during, recovery := die(w, v, i, -1)
			if bad != nil {
				return deaths, fmt.Sprintf("%s, death at point %d:\n  %s", v.name, i, strings.Join(bad, "\n  "))
			}
			if i >= during {
				break // the verb has no such point: it was acknowledged
			}
			deaths++
			for j := 0; deep && j < recovery; j++ {
				bad, _, n := die(w, v, i, j)
				if bad != nil {
					return deaths, fmt.Sprintf("%s, death at point %d and in recovery at %d:\n  %s", v.name, i, j, strings.Join(bad, "\n  "))
				}
				if j < n {
					deaths += 2
				}
			}
		}
	}
	return deaths, ""
}

// Whatever point the daemon dies at, and whatever point of the recovery the
// next one dies at, the one after puts everything in order.
func TestDieEverywhere(t *testing.T) {
	deaths, wrong := search(newWorld(t), true)
	t.Logf("%d deaths tried", deaths)
	if wrong != "" {
		t.Fatal(wrong)
	}
	if deaths < 2000 {
		t.Errorf("only %d deaths were tried: points were lost", deaths)
	}
}

// The same with the real database.
func TestDieEverywhereOnDisk(t *testing.T) {
	deaths, wrong := search(onDisk(t), false)
	t.Logf("%d deaths tried", deaths)
	if wrong != "" {
		t.Fatal(wrong)
	}
}

// A restart that was to boot boots, whichever daemon gets to do it.
func TestColdRestartOutlivesDaemons(t *testing.T) {
	w := newWorld(t)
	v := verb{"restart --cold", made(true), func(ctx context.Context, d *daemon) error {
		_, err := d.RestartVM(ctx, "it", banger.StopOptions{Cold: true}, nil)
		return err
	}, is(banger.Running)}
	taken := 0
	for i := 0; ; i++ {
		tr := newTrial(w, v)
		s := &script{at: -1, fate: fake.Die}
		d := w.open(s.decide)
		s.arm(i)
		err := d.call(v)
		d.kill()
		d = w.open(nil)
		w.settled(d)
		vm, verr := d.VM(t.Context(), "it")
		must(t, verr)
		if vm.State == banger.Running && vm.Boots == 2 {
			if vm.Launch == nil || vm.Launch.Why != "asked to boot" {
				t.Errorf("death at point %d: %+v", i, vm.Launch)
			}
			if err != nil {
				taken++
			}
		}
		report(t, tr.end(d, err == nil, false), "death at point %d", i)
		if i >= s.count() {
			break
		}
	}
	if taken == 0 {
		t.Error("no daemon took over from another")
	}
}

func report(t *testing.T, bad []string, format string, args ...any) {
	t.Helper()
	if len(bad) > 0 {
		t.Fatalf("%s:\n  %s", fmt.Sprintf(format, args...), strings.Join(bad, "\n  "))
	}
}

// fail lets point i of a verb fail, and reports what is wrong while the daemon
// lives on and after it died, how many points there were, and the call's error.
func fail(w *world, v verb, i int) (bad []string, points int, err error) {
	t := newTrial(w, v)
	s := &script{at: -1, fate: fake.Fail}
	d := w.open(s.decide)
	s.arm(i)
	err = d.call(v)
	w.settled(d)
	points = s.count()
	for _, b := range w.check(d) {
		bad = append(bad, "while the daemon lives: "+b)
	}
	d.kill()
	return append(bad, t.end(w.open(nil), err == nil, err != nil)...), points, err
}

// Whatever step fails, once, the call succeeds or is undone, and the daemon
// that lives on puts the rest in order by itself.
func TestFailEverywhere(t *testing.T) {
	failures := 0
	w := onDisk(t)
	for _, v := range verbs {
		for i := 0; ; i++ {
			bad, n, err := fail(w, v, i)
			report(t, bad, "%s, failure at point %d (%v)", v.name, i, err)
			if i < n {
				failures++
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", v.name, err)
			}
			break
		}
	}
	t.Logf("%d failures tried", failures)
}

// Every step that fails during recovery is tried again.
func TestFailInRecovery(t *testing.T) {
	w := newWorld(t)
	for _, v := range verbs {
		for j := 0; ; j++ {
			tr := newTrial(w, v)
			// Death in the middle leaves the most to do.
			mid := &script{at: -1, fate: fake.Die}
			d := w.open(mid.decide)
			mid.arm(9)
			err := d.call(v)
			d.kill()
			s := &script{at: j, fate: fake.Fail}
			d = w.open(s.decide)
			w.settled(d)
			n := s.count()
			if !slices.Contains(s.points, "before adopt") {
				t.Fatal("recovery adopted nothing")
			}
			s.arm(-1)
			report(t, tr.end(d, err == nil, false), "%s, failure in recovery at %d", v.name, j)
			if j >= n {
				break
			}
		}
	}
}

package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/test/fake"
)

// script decides what happens at which point, counting them.
type script struct {
	mu     sync.Mutex
	points []string
	at     int       // the point at which something happens; -1: never
	fate   fake.Fate // what
	times  int       // how often a step that fails there goes on failing
	ends   func()    // what happens instead of a fate; nil: nothing
	failed [2]string // VM and point that go on failing
}

func (s *script) decide(vm, point string) fake.Fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points = append(s.points, point)
	if len(s.points)-1 == s.at {
		if s.ends != nil {
			s.ends()
			return fake.Live
		}
		s.failed = [2]string{vm, point}
		if s.fate != fake.Fail {
			return s.fate
		}
	}
	if s.fate == fake.Fail && s.times > 0 && s.failed == [2]string{vm, point} {
		s.times--
		return fake.Fail
	}
	return fake.Live
}

// arm begins the count anew and strikes at point i; -1: never again.
func (s *script) arm(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points, s.at, s.failed = nil, i, [2]string{"", "nowhere"}
}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.points)
}

// where names the point at which it struck.
func (s *script) where() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at < 0 || s.at >= len(s.points) {
		return "no point"
	}
	return fmt.Sprintf("point %d, %s", s.at, s.points[s.at])
}

// passed reports whether a point of this name came, up to the one struck at.
func (s *script) passed(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	upto := len(s.points)
	if s.at >= 0 {
		upto = min(upto, s.at+1)
	}
	return slices.ContainsFunc(s.points[:upto], func(p string) bool { return strings.HasPrefix(p, name) })
}

// trial is one run of a verb on the VM "it", beside an acknowledged VM "old"
// that runs through all trials.
type trial struct {
	w     *world
	v     verb
	d     *daemon // that does it
	began time.Time
	id    string // of "it", where it was there before
	runs  int    // of it that had ended by then

	// What came of it.
	acknowledged bool
	failed       bool // its call returned an error
	sure         bool // it had passed the point from which on it is as good as acknowledged
	injected     bool // something failed
	patient      bool // and it is nothing that ends a guest early
	cut          bool // the host was restarted
	left         bool // its client gave it up
}

// newTrial opens a daemon with this script, which is armed for point i of the verb.
func newTrial(w *world, v verb, s *script, i int) *trial {
	t := &trial{w: w, v: v}
	s.at = -1
	w.pauses.reset(nil)
	if w.pauses.take(v.takes); w.bubble && v.takes == 0 {
		w.pauses.take(3 * time.Second)
	}
	t.d = w.open(s.decide)
	w.heat(t.d)
	if w.old.ID == "" {
		var err error
		if w.old, err = t.d.CreateVM(context.Background(), banger.Spec{Name: "old"}, true, nil); err != nil {
			w.t.Fatal(err)
		}
		w.pauses.spare(w.old.ID)
	}
	if v.prepare != nil {
		v.prepare(w, t.d)
	}
	if vm, err := t.d.VM(context.Background(), "it"); err == nil {
		t.id, t.runs = vm.ID, len(w.host.Ends(vm.ID))
	}
	t.began = time.Now()
	w.pauses.reset(nil)
	s.arm(i)
	return t
}

// call does the verb and notes how it was answered.
func (t *trial) call() error {
	err := t.d.call(t.v)
	t.answered(err)
	return err
}

func (t *trial) answered(err error) {
	t.acknowledged = err == nil
	t.failed = err != nil && err != errDead
}

// end checks the world with a last daemon and clears it for the next trial.
func (t *trial) end(d *daemon) []string {
	w := t.w
	w.pauses.reset(nil)
	bad := w.settle(d)
	bad = append(bad, w.check(d)...)
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
	bad = append(bad, t.promises(it)...)
	if it != nil && it.State == banger.Running && bad == nil {
		if conn, err := d.Dial(context.Background(), "it"); err != nil {
			bad = append(bad, fmt.Sprintf("a running VM doesn't answer: %v", err))
		} else {
			conn.Close()
		}
	}
	if bad != nil {
		return bad // and the world is no good for another trial
	}
	for _, name := range []string{"it", "that"} {
		if err := d.DeleteVM(context.Background(), name); err != nil && banger.CodeOf(err) != banger.CodeNotFound {
			bad = append(bad, fmt.Sprintf("%s can't be deleted: %v", name, err))
		}
	}
	bad = append(bad, w.check(d)...)
	d.kill()
	w.daemons = nil
	return bad
}

// hastily is how long what is done at once may take, with a daemon's end in between.
const hastily = 20 * time.Second

// promises says which were broken, for what is left of "it" in the end.
func (t *trial) promises(it *banger.VM) (bad []string) {
	wrong := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	switch {
	case t.acknowledged && !t.v.after(it) && !(t.cut && is(banger.Stopped)(it) && t.v.after(&banger.VM{State: banger.Running, Boots: it.Boots, Spec: it.Spec})):
		wrong("acknowledged, and then: %+v", it)
	case t.failed && strings.HasPrefix(t.v.name, "create") && it != nil:
		wrong("refused, and yet: %+v", it)
	case t.injected || t.cut || t.left: // what began may have been given up
	case t.sure && !t.v.after(it):
		wrong("begun, and then: %+v", it)
	case t.v.always != nil && !t.v.always(it):
		wrong("cut short, and then: %+v", it)
	case t.v.how == "warm" && is(banger.Running)(it) && (it.Launch == nil || it.Launch.Template == ""):
		wrong("it was booted: %+v", it.Launch)
	case t.v.how == "cold" && again(it) && (it.Launch == nil || it.Launch.Why != "asked to boot"):
		wrong("it was not asked to boot: %+v", it.Launch)
	}
	if t.v.haste && !t.injected && !t.cut {
		for _, x := range t.w.host.Ends(t.id)[t.runs:] {
			if waited := x.Time.Sub(t.began); waited > hastily {
				wrong("its guest was to be killed at once, and was after %s", waited)
			}
		}
	}
	if t.v.patience == 0 || t.id == "" || t.injected && !t.patient {
		return bad
	}
	if ended := t.w.host.Ends(t.id)[t.runs:]; len(ended) > 0 { // later runs were promised nothing
		if waited := ended[0].Time.Sub(t.began); ended[0].Kind == banger.ExitKilled && waited < t.v.patience {
			wrong("its guest was killed after %s, %s were promised", waited, t.v.patience)
		}
	}
	return bad
}

func report(t testing.TB, bad []string, format string, args ...any) {
	t.Helper()
	if len(bad) > 0 {
		t.Fatalf("%s:\n  %s", fmt.Sprintf(format, args...), strings.Join(bad, "\n  "))
	}
}

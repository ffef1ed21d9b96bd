package engine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/test/fake"
)

// What takes long takes this long: what is waited for no longer than ten seconds
// takes eight. What happens meanwhile happens midway.
const (
	brief  = 8 * time.Second
	lasts  = 20 * time.Second
	midway = 4 * time.Second
)

// waiting is a verb under way, of which something takes long.
type waiting struct {
	*trial
	called chan error
}

// waits holds a verb up at a pause and returns midway; reached is false when the
// call was over before.
func waits(w *world, v verb, at pause, fails error) (t waiting, reached bool) {
	s := &script{}
	t = waiting{newTrial(w, v, s, -1), make(chan error, 1)}
	h := &hold{at: at, lasts: lasts, fails: fails, reached: make(chan struct{})}
	switch {
	case fails != nil:
		h.lasts = 0
	case at.what == "dial" || at.what == "wait" || at.what == "shutdown":
		h.lasts = brief
	}
	w.pauses.reset(h)
	go func() { t.called <- t.d.call(v) }()
	select {
	case err := <-t.called:
		t.answered(err)
		t.called <- err
		return t, false
	case <-h.reached:
	}
	time.Sleep(midway)
	t.sure = v.sure != "" && s.passed(v.sure)
	return t, true
}

// hear waits for the answer of a call, and says when there is none within hours.
func (t waiting) hear() (bad []string) {
	select {
	case err := <-t.called:
		t.answered(err)
	case <-time.After(3 * time.Hour):
		if !t.v.own { // else what it waits for may never come
			bad = append(bad, "its call doesn't return")
		}
	}
	return bad
}

// befall is what may happen midway. It returns the daemon that is to end it all.
type befall func(w *world, t waiting) (last *daemon, bad []string)

var befalls = map[string]befall{
	"nothing happens": func(w *world, t waiting) (*daemon, []string) {
		bad := t.hear()
		if !t.acknowledged {
			bad = append(bad, "it took no longer than it may, and failed")
		}
		t.d.kill()
		return w.open(nil), bad
	},
	"the daemon dies": func(w *world, t waiting) (*daemon, []string) {
		t.d.kill()
		return w.open(nil), nil
	},
	"the daemon dies, and so does the next": func(w *world, t waiting) (*daemon, []string) {
		t.d.kill()
		d := w.daemon(nil)
		go func() { _ = d.recover() }()
		time.Sleep(midway)
		d.kill()
		return w.open(nil), nil
	},
	"the daemon dies, and the next is ended": func(w *world, t waiting) (*daemon, []string) {
		t.d.kill()
		d := w.daemon(nil)
		opened := make(chan error, 1)
		go func() { opened <- d.recover() }()
		time.Sleep(midway)
		began := time.Now()
		d.leave()
		<-opened
		d.kill()
		var bad []string
		if took := time.Since(began); took > time.Minute {
			bad = append(bad, fmt.Sprintf("a daemon that recovers takes %s to end", took))
		}
		return w.open(nil), bad
	},
	"the daemon is ended": func(w *world, t waiting) (*daemon, []string) {
		began := time.Now()
		if err, ok := t.d.terminate(t.called); ok {
			t.answered(err)
		}
		var bad []string
		if took := time.Since(began); took > time.Minute {
			bad = append(bad, fmt.Sprintf("the daemon takes %s to end", took))
		}
		return w.open(nil), bad
	},
	"the daemon is ended, and the next dies": func(w *world, t waiting) (*daemon, []string) {
		if err, ok := t.d.terminate(t.called); ok {
			t.answered(err)
		}
		d := w.daemon(nil)
		go func() { _ = d.recover() }()
		time.Sleep(midway)
		d.kill()
		return w.open(nil), nil
	},
	"the client leaves": func(w *world, t waiting) (*daemon, []string) {
		if t.v.own {
			t.d.kill()
			return w.open(nil), nil
		}
		t.d.leave()
		t.left = true
		bad := t.hear()
		bad = append(bad, w.settle(t.d)...)
		t.d.kill()
		return w.open(nil), bad
	},
}

// waitEverywhere has every wait of a verb take long, and then be cut short in every way.
func waitEverywhere(w *world, v verb, count func(string)) string {
	t := newTrial(w, v, &script{}, -1)
	err := t.call()
	at := w.pauses.passed()
	t.d.kill()
	if bad := t.end(w.open(nil)); bad != nil || err != nil {
		return said(append(bad, fmt.Sprint(err)), "at once")
	}
	first, step := sample(v)
	for n, at := range at {
		count("pauses: " + at.what)
		if n%step != first {
			continue
		}
		for name, befalls := range befalls {
			t, reached := waits(w, v, at, nil)
			last, bad := befalls(w, t)
			if bad = append(bad, t.end(last)...); bad != nil {
				return said(bad, "%s no. %d takes long, and %s", at.what, at.nth, name)
			}
			if reached {
				count("waits: " + name)
			}
		}
		t, reached := waits(w, v, at, fake.ErrInjected)
		t.injected, t.patient = true, at.what == "wait"
		bad := t.hear()
		bad = append(bad, w.settle(t.d)...)
		t.d.kill()
		if bad = append(bad, t.end(w.open(nil))...); bad != nil {
			return said(bad, "%s no. %d fails", at.what, at.nth)
		}
		if reached {
			count("waits: it fails")
		}
	}
	return ""
}

// Whatever takes long may be cut short, and keeps what was promised of it.
func TestWaitEverywhere(t *testing.T) {
	counts := everywhere(t, waitEverywhere)
	for _, what := range strings.Fields("create clone set start restore dial configure wait shutdown poweroff kill detach") {
		if counts["pauses: "+what] == 0 {
			t.Errorf("nothing waited for %q", what)
		}
	}
}

// stubborn is a world in which a step of "it" fails for ever.
func stubborn(w *world, v verb, count func(string)) string {
	for i, step := sample(v); ; i += step {
		s := &script{fate: fake.Fail, times: 1 << 30}
		t := newTrial(w, v, s, i)
		t.injected = true
		called := make(chan error, 1)
		go func() { called <- t.d.call(v) }()
		bad := waiting{t, called}.hear()
		if i >= s.count() {
			t.d.kill()
			return said(append(bad, t.end(w.open(nil))...), "nothing fails")
		}
		count("steps that fail for ever")
		bad = append(bad, w.serves(t.d, s)...)
		t.d.kill()
		next := &script{at: -1, fate: fake.Fail, times: 1 << 30, failed: s.failed}
		began := time.Now()
		d := w.open(next.decide)
		if took := time.Since(began); took > 10*time.Minute {
			bad = append(bad, fmt.Sprintf("the next daemon took %s to open", took))
		}
		bad = append(bad, w.serves(d, next)...)
		d.kill()
		if bad == nil {
			bad = t.end(w.open(nil))
		}
		if bad != nil {
			return said(bad, "failures for ever at %s", s.where())
		}
	}
}

// serves says what a daemon that can't get on with one VM owes the others, for an
// hour in which it tries again and again, but not without end.
func (w *world) serves(d *daemon, s *script) (bad []string) {
	wrong := func(what string, err error) {
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", what, err))
		}
	}
	before := s.count()
	time.Sleep(time.Hour)
	if tried := s.count() - before; tried > mostTries {
		bad = append(bad, fmt.Sprintf("%d points in an hour", tried))
	}
	vms, err := d.VMs(context.Background())
	if wrong("list", err); len(vms) == 0 {
		bad = append(bad, "it lists no VMs")
	}
	stored, err := w.store.VMs(context.Background())
	wrong("the records", err)
	for _, vm := range stored {
		plans, err := w.store.Plans(context.Background())
		if wrong("plans", err); vm.State != banger.Running && vm.State != banger.Stopped && len(plans) == 0 {
			bad = append(bad, fmt.Sprintf("vm %s is %s in the records and nobody is to see to it", vm.Spec.Name, vm.State))
		}
	}
	if s.failed[0] == "" {
		return bad // a file of the engine's own: the step is the others', too
	}
	conn, err := d.Dial(context.Background(), "old")
	if wrong("dial the other VM", err); err == nil {
		conn.Close()
	}
	_, err = d.CreateVM(context.Background(), banger.Spec{Name: "another"}, true, nil)
	wrong("create another VM", err)
	wrong("delete it", d.DeleteVM(context.Background(), "another"))
	return bad
}

// mostTries bounds the points that come in an hour of trying again and again.
const mostTries = 2000

// A step that fails for ever keeps its plan and harms nobody else.
func TestFailForEver(t *testing.T) { everywhere(t, stubborn) }

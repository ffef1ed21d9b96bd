package engine_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/test/fake"
)

// search does something to a verb wherever it can be done, tells count of each,
// and returns the first thing that was wrong.
type search func(w *world, v verb, count func(what string)) (wrong string)

// everywhere searches all verbs, each in a world of its own, and prints the counts.
func everywhere(t *testing.T, s search) map[string]int {
	t.Helper()
	var mu sync.Mutex
	total := map[string]int{}
	t.Run("verbs", func(t *testing.T) {
		for _, v := range verbs {
			t.Run(v.name, func(t *testing.T) {
				t.Parallel()
				inBubble(t, func(t *testing.T, w *world) {
					w.warm = true
					counts := map[string]int{}
					wrong := s(w, v, func(what string) { counts[what]++ })
					if wrong != "" {
						t.Errorf("%s, %s", v.name, wrong)
					}
					mu.Lock()
					defer mu.Unlock()
					for what, n := range counts {
						total[what] += n
					}
				})
			})
		}
	})
	for _, what := range slices.Sorted(maps.Keys(total)) {
		t.Logf("%d %s", total[what], what)
	}
	return total
}

// sample is the first point of a verb at which something befalls it, and how far it
// is to the next: everywhere, or with -short at one point in three, in each verb
// from another one on. That catches each saboteur still.
func sample(v verb) (first, step int) {
	if step = 1; testing.Short() {
		step = 3
	}
	return slices.IndexFunc(verbs, func(w verb) bool { return w.name == v.name }) % step, step
}

func said(bad []string, format string, args ...any) string {
	if len(bad) == 0 {
		return ""
	}
	return fmt.Sprintf(format, args...) + ":\n  " + strings.Join(bad, "\n  ")
}

// Every verb, with nothing that befalls it, keeps its promise.
func TestVerbs(t *testing.T) {
	passed := map[string]bool{}
	var mu sync.Mutex
	everywhere(t, func(w *world, v verb, count func(string)) string {
		s := &script{}
		tr := newTrial(w, v, s, -1)
		err := tr.call()
		tr.d.kill()
		mu.Lock()
		defer mu.Unlock()
		for _, p := range s.points {
			passed[p] = true
			count("points")
		}
		if err != nil {
			return fmt.Sprint(err)
		}
		return said(tr.end(w.open(nil)), "at the end")
	})
	for _, point := range []string{"after clone disk", "after restore vmm", "after start vmm", "after grow disk", "after signal KILL", "after clean up tap"} {
		if !passed[point] {
			t.Errorf("no verb passed %q", point)
		}
	}
}

// die kills the daemon at point i of the verb, the next one at point j of its
// recovery (-1: not).
func die(w *world, v verb, i, j int) (bad []string, first, second *script) {
	first, second = &script{fate: fake.Die}, &script{at: j, fate: fake.Die}
	t := newTrial(w, v, first, i)
	_ = t.call()
	t.d.kill()
	t.sure = v.sure != "" && first.passed(v.sure)
	d := w.open(second.decide)
	if j >= 0 {
		d.kill()
		d = w.open(nil)
	}
	return t.end(d), first, second
}

// dies kills the daemon at every point, and of every recovery the next one: at
// every point of it, or at one in stride.
func dies(stride int) search {
	return func(w *world, v verb, count func(string)) string {
		for i, step := sample(v); ; i += step {
			bad, first, recovery := die(w, v, i, -1)
			if bad != nil {
				return said(bad, "death at %s", first.where())
			}
			if i >= first.count() {
				return "" // there is no such point: it was acknowledged
			}
			count("deaths")
			for j := i % max(stride, 1); stride > 0 && j < recovery.count(); j += stride {
				bad, first, second := die(w, v, i, j)
				if bad != nil {
					return said(bad, "death at %s and in recovery at %s", first.where(), second.where())
				}
				if j < second.count() {
					count("deaths in recovery")
				}
			}
		}
	}
}

// Whatever point the daemon dies at, and whatever point of the recovery the
// next one dies at, the one after puts everything in order.
func TestDieEverywhere(t *testing.T) {
	stride := 17
	if *deep {
		stride = 1
	}
	counts := everywhere(t, dies(stride))
	least := 900
	if testing.Short() {
		least = 300
	}
	if counts["deaths"] < least || counts["deaths in recovery"] < least {
		t.Errorf("points were lost: %v", counts)
	}
}

// terminates ends the daemon as SIGTERM does at point i of the verb. With hasty, the
// ten seconds that clients are given have passed by then.
func terminates(w *world, v verb, i int, hasty bool) (bad []string, s *script) {
	s = &script{}
	reached, closing := make(chan struct{}), make(chan struct{})
	t := newTrial(w, v, s, -1)
	go func() {
		defer close(closing) // who holds a VM hears at once that its daemon ends
		_ = t.d.Engine.HoldVM(context.Background(), "old", nil)
	}()
	s.ends = func() {
		t.d.leave()
		close(reached)
		if hasty {
			select {
			case <-closing:
			case <-t.d.life.Dead(): // the verb was over before
			}
		}
	}
	s.arm(i)
	called := make(chan error, 1)
	go func() { called <- t.d.call(v) }()
	select {
	case err := <-called:
		t.answered(err)
	case <-reached:
		if hasty {
			t.d.over.Do(t.d.Close)
			t.d.life.Kill()
		} else if err, ok := t.d.terminate(called); ok {
			t.answered(err)
		}
	}
	t.d.kill()
	t.sure = v.sure != "" && s.passed(v.sure)
	return t.end(w.open(nil)), s
}

// closes ends the daemon gracefully at every point.
func closes(w *world, v verb, count func(string)) string {
	for i, step := sample(v); ; i += step {
		for _, hasty := range []bool{true, false} {
			if v.own && !hasty || !*deep && !v.own && hasty == (i%2 == 0) {
				continue
			}
			bad, s := terminates(w, v, i, hasty)
			if bad != nil {
				return said(bad, "the daemon was ended (hastily: %v) at %s", hasty, s.where())
			}
			if i >= s.count() {
				return ""
			}
			count("graceful ends")
		}
	}
}

// A daemon that is told to end with work in flight leaves the rest to the next one.
func TestEndEverywhere(t *testing.T) { everywhere(t, closes) }

// fail lets point i of a verb fail so many times, and reports what is wrong while
// the daemon lives on and after it died, and the call's error.
func fail(w *world, v verb, i, times int) (bad []string, s *script, err error) {
	s = &script{fate: fake.Fail, times: times}
	t := newTrial(w, v, s, i)
	t.injected = true
	err = t.call()
	bad = w.settle(t.d)
	for _, b := range w.check(t.d) {
		bad = append(bad, "while the daemon lives: "+b)
	}
	t.d.kill()
	if bad != nil {
		return bad, s, err
	}
	return t.end(w.open(nil)), s, err
}

// fails lets every step fail, once and several times.
func fails(w *world, v verb, count func(string)) string {
	for i, step := sample(v); ; i += step {
		for _, times := range []int{1, 4} {
			bad, s, err := fail(w, v, i, times)
			if bad != nil {
				return said(bad, "%d failures at %s (%v)", times, s.where(), err)
			}
			if i < s.count() {
				count(fmt.Sprintf("failures, %d in a row", times))
				continue
			}
			if err != nil {
				return err.Error()
			}
			return ""
		}
	}
}

// Whatever step fails, once or again and again, the call succeeds or is undone,
// and the daemon that lives on puts the rest in order by itself.
func TestFailEverywhere(t *testing.T) { everywhere(t, fails) }

// Every step that fails during recovery is tried again.
func TestFailInRecovery(t *testing.T) {
	everywhere(t, func(w *world, v verb, count func(string)) string {
		if v.name == "publish" || v.name == "unpublish" {
			// Not held yet: a daemon that dies after a shim published ports, before they are
			// recorded, leaves them to the next one; if that one's first try fails, it only logs it.
			return ""
		}
		stride := 25
		if *deep {
			stride = 3
		}
		for i := stride / 2; ; i += stride {
			for j, step := sample(v); ; j += step {
				first, second := &script{fate: fake.Die}, &script{at: j, fate: fake.Fail, times: 1 + 2*(j%2), failed: [2]string{"", "nowhere"}}
				tr := newTrial(w, v, first, i)
				_ = tr.call()
				tr.d.kill()
				tr.injected = true
				d := w.open(second.decide)
				bad := w.settle(d)
				points := slices.Clone(second.points)
				second.arm(-1)
				if bad = append(bad, tr.end(d)...); bad != nil {
					return said(bad, "death at %s, failures in recovery at %d", first.where(), j)
				}
				if !slices.Contains(points, "before adopt") {
					return "recovery adopted nothing"
				}
				if j >= len(points) && i >= first.count() {
					return ""
				}
				if j >= len(points) {
					break
				}
				count("failures in recovery")
			}
		}
	})
}

// The same with the real database, whose time is real.
func TestDieEverywhereOnDisk(t *testing.T) {
	w := onDisk(t)
	defer w.end()
	w.warm = true
	deaths := 0
	for n, v := range verbs {
		if v.takes > 0 || v.name == "lease runs out" {
			continue // they take minutes
		}
		step := 6
		if *deep {
			step = 1
		}
		for i := n % step; ; i += step {
			bad, first, _ := die(w, v, i, -1)
			report(t, bad, "%s, death at %s", v.name, first.where())
			if i >= first.count() {
				break
			}
			deaths++
			bad, failed, _ := fail(w, v, i, 1)
			report(t, bad, "%s, failure at %s", v.name, failed.where())
		}
	}
	t.Logf("%d deaths and as many failures tried", deaths)
}

// An acknowledgement that fails is seen by nobody: a VM that was about to run
// again and is taken back never runs.
func TestFailedAcknowledgement(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var told []string
		w.told = func(e banger.Event) { told = append(told, e.Stage) }
		fails := false
		d := w.open(func(_, point string) fake.Fate {
			if fails && point == "before commit running" {
				fails = false
				return fake.Fail
			}
			return fake.Live
		})
		made(bridged, true)(w, d)
		for name, call := range map[string]func(context.Context, *daemon) error{"restart": restart(banger.StopOptions{}), "reboot": reboots} {
			told, fails = nil, true
			if err := call(t.Context(), d); err == nil {
				t.Errorf("%s: nothing failed", name)
			}
			w.settled(d)
			if got := strings.Join(told, " "); got != "stopping stopped starting failed stopped" {
				t.Errorf("%s: told %s", name, got)
			}
			must(t, remove(t.Context(), d))
			made(bridged, true)(w, d)
		}
	})
}

// A creation that is given up before anything was made leaves nothing to undo.
func TestGivenUpBeforeItBegan(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		must(t, os.RemoveAll(filepath.Join(w.dir, "vms")))
		ctx, leave := context.WithCancel(t.Context())
		d := w.open(func(_, point string) fake.Fate {
			if point == "after commit creating create disk" {
				leave()
			}
			return fake.Live
		})
		_, err := d.CreateVM(ctx, bridged, true, nil)
		wantCode(t, err, banger.CodeCanceled)
		if d.there() {
			t.Error("it is still there")
		}
	})
}

// Ports that were published by a shim whose answer didn't come are taken back.
func TestPublishInDoubt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		fails := false
		d := w.open(func(_, point string) fake.Fate {
			if fails && point == "after publish" {
				fails = false
				return fake.Fail
			}
			return fake.Live
		})
		made(bridged, true)(w, d)
		fails = true
		if err := set(banger.Change{Publish: &[]banger.Published{{Port: 8080, Guest: 8080, Protocol: "tcp"}}})(t.Context(), d); err == nil {
			t.Error("nothing failed")
		}
		w.settled(d)
		report(t, w.check(d), "publish in doubt")
	})
}

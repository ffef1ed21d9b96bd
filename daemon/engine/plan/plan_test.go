package plan_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/daemon/engine/plan"
)

func TestUnknownPlansAreRefused(t *testing.T) {
	steps := map[banger.PlanKind][]string{banger.PlanStop: {"vmm"}}
	good := banger.Plan{Kind: banger.PlanStop, Direction: banger.Forward, Subjects: []string{"x"}, Begun: []string{"vmm"}}
	if err := plan.Known(good, steps); err != nil {
		t.Error(err)
	}
	for what, spoil := range map[string]func(*banger.Plan){
		"of another kind":         func(p *banger.Plan) { p.Kind = "snapshot" },
		"without a direction":     func(p *banger.Plan) { p.Direction = "" },
		"with another step":       func(p *banger.Plan) { p.Begun = []string{"vmm", "memory"} },
		"about two":               func(p *banger.Plan) { p.Subjects = []string{"x", "y"} },
		"about nobody":            func(p *banger.Plan) { p.Subjects = nil },
		"in a direction to come":  func(p *banger.Plan) { p.Direction = "sideways" },
		"of a kind with no steps": func(p *banger.Plan) { p.Kind, p.Begun = "fork", nil },
	} {
		p := good
		spoil(&p)
		err := plan.Known(p, steps)
		if banger.CodeOf(err) != banger.CodeConflict || !strings.Contains(banger.AsError(err).Hint, "install the version") {
			t.Errorf("a plan %s: %v", what, err)
		}
	}
}

// A plan is tried again and again, but not for ever, and by however many.
func TestTriesAreBounded(t *testing.T) {
	p := banger.Plan{Kind: banger.PlanRestart}
	tries := 0
	for ; tries < 100; tries++ {
		r := plan.Run{Plan: p}
		if err := r.Anew(); err != nil {
			break
		}
		p = r.Plan
	}
	if tries != 5 {
		t.Errorf("%d tries", tries)
	}
}

func TestRemaining(t *testing.T) {
	opened := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := plan.Run{Plan: banger.Plan{Opened: opened, Timeout: 5 * time.Minute}}
	for after, want := range map[time.Duration]time.Duration{
		0: 5 * time.Minute, time.Minute: 4 * time.Minute, time.Hour: 10 * time.Second, -time.Hour: 5 * time.Minute,
	} {
		if got := r.Remaining(opened.Add(after), 10*time.Second); got != want {
			t.Errorf("after %s: %s left, want %s", after, got, want)
		}
	}
	r.Timeout = time.Second // the floor is no more than was granted
	if got := r.Remaining(opened.Add(time.Hour), 10*time.Second); got != time.Second {
		t.Errorf("%s left of a second", got)
	}
}

func TestPauses(t *testing.T) {
	var p plan.Pauses
	var all, last time.Duration
	one, two := errors.New("one"), errors.New("two")
	for range 20 {
		next, _ := p.Next(one, 5*time.Second)
		if next < last || next > 5*time.Minute {
			t.Errorf("after %s came %s", last, next)
		}
		last, all = next, all+next
	}
	if last != 5*time.Minute || all < time.Hour {
		t.Errorf("the last pause is %s, all are %s", last, all)
	}
	p = plan.Pauses{}
	for i, why := range []error{one, errors.New("one"), two} {
		if _, news := p.Next(why, time.Second); news != (i != 1) || p.Why != why {
			t.Error("the same is said twice, or news isn't")
		}
	}
}

// Plans that share subjects don't wait for each other in a circle.
func TestLocks(t *testing.T) {
	locks := map[string]plan.Lock{"x": make(plan.Lock, 1), "y": make(plan.Lock, 1), "z": make(plan.Lock, 1)}
	pairs := [][]string{{"x", "y"}, {"y", "x"}, {"z", "x"}, {"y", "z"}, {"z", "y", "x"}}
	had := map[string]int{}
	var wg sync.WaitGroup
	for _, pair := range pairs {
		mine := map[string]plan.Lock{}
		for _, id := range pair {
			mine[id] = locks[id]
		}
		wg.Go(func() {
			for range 500 {
				release, err := plan.Take(t.Context(), mine)
				if err != nil {
					t.Error(err)
					return
				}
				for id := range mine {
					had[id]++ // the lock is what guards it
				}
				release()
			}
		})
	}
	wg.Wait()
	if had["x"] != 2000 || len(locks["x"]) > 0 || len(locks["y"]) > 0 {
		t.Errorf("%v", had)
	}
	held, err := plan.Take(t.Context(), map[string]plan.Lock{"y": locks["y"]})
	if err != nil {
		t.Fatal(err)
	}
	defer held()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := plan.Take(ctx, map[string]plan.Lock{"y": locks["y"]}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Who is told to leave a plan leaves it between two steps, and whatever cut a
// step short: the plan stands, and nothing of it is taken for failed.
func TestLeft(t *testing.T) {
	left := make(chan struct{})
	var done []string
	step := func(name string, err error) plan.Step {
		return plan.Step{Name: name, Do: func(context.Context) error {
			if done = append(done, name); name == "two" {
				close(left)
			}
			return err
		}}
	}
	for _, cut := range []error{nil, errors.New("cut short")} {
		left, done = make(chan struct{}), nil
		r := plan.Run{Left: left, Plan: banger.Plan{Subjects: []string{"x"}}, Record: func(context.Context, *banger.Plan, bool) error { return nil }}
		err := r.Do(t.Context(), step("one", nil), step("two", cut), step("three", nil))
		if !errors.Is(err, plan.ErrLeft) || !errors.Is(err, banger.ErrEnding) || strings.Join(done, " ") != "one two" || len(r.Begun) != 2 {
			t.Errorf("%v after %v, begun %v", err, done, r.Begun)
		}
	}
}

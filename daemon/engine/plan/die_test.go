package plan_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/daemon/engine/plan"
)

// notes are what a journal keeps: a plan, and whether its subjects are there.
type notes struct {
	plan  *banger.Plan
	there bool
}

// world is what outlives whoever carries out plans: a journal and the effects of
// steps. Each change is a point, before and after, at which that one may die.
type world struct {
	steps   []plan.Step // of all subjects, in order
	effects map[string]bool
	now     notes
	past    []notes // what a power cut may leave: since the last durable note
	crimes  []string

	points, at int // at which point death strikes; 0: never

	sabotage func(notes, bool) (notes, bool) // of what is to be noted and whether it must last
}

type death struct{}

func (w *world) point() {
	if w.points++; w.points == w.at {
		panic(death{})
	}
}

// do is one change, with its points.
func (w *world) do(change func()) {
	w.point()
	change()
	w.point()
}

func key(s plan.Step) string { return s.Name + " of " + s.Subject }

// newWorld has subjects x, and y where there are two, whose steps have the same
// names. A step is only undone once no later one of its subject stands.
func newWorld(subjects int) *world {
	w := &world{effects: map[string]bool{}, past: []notes{{}}}
	for _, subject := range []string{"x", "y"}[:subjects] {
		for i, name := range []string{"file", "device", "process"} {
			s := plan.Step{Name: name, Subject: subject, Lasting: i == 0}
			mine := key(s)
			s.Do = func(context.Context) error {
				w.do(func() { w.effects[mine] = true })
				return nil
			}
			s.Undo = func(context.Context) error {
				w.do(func() {
					for _, later := range w.steps[slices.IndexFunc(w.steps, func(o plan.Step) bool { return key(o) == mine })+1:] {
						if later.Subject == subject && w.effects[key(later)] {
							w.crimes = append(w.crimes, mine+" was undone beneath "+key(later))
						}
					}
					delete(w.effects, mine)
				})
				return nil
			}
			w.steps = append(w.steps, s)
		}
	}
	return w
}

// run is a plan in the hands of somebody who may die. there is what the subjects
// are once it is over.
func (w *world) run(p banger.Plan, there *bool) *plan.Run {
	return &plan.Run{Plan: p, Record: func(_ context.Context, p *banger.Plan, durable bool) error {
		n := notes{p, *there}
		if w.sabotage != nil {
			n, durable = w.sabotage(n, durable)
		}
		w.do(func() {
			if w.now = n; durable {
				w.past = nil
			}
			w.past = append(w.past, n)
		})
		return nil
	}}
}

func (w *world) all() (names []string) {
	for _, s := range w.steps {
		if strings.HasPrefix(w.steps[len(w.steps)-1].Subject, "y") {
			names = append(names, s.Name+"@"+s.Subject)
		} else {
			names = append(names, s.Name)
		}
	}
	return names
}

func (w *world) subjects() []string {
	if len(w.steps) > 3 {
		return []string{"x", "y"}
	}
	return []string{"x"}
}

// verbs begin a plan in each direction and carry it out.
var verbs = map[banger.Direction]func(*world) error{
	banger.Back: func(w *world) error {
		there := false
		r := w.run(banger.Plan{Subjects: w.subjects(), Kind: "make", Direction: banger.Back}, &there)
		if err := r.Do(context.Background(), w.steps...); err != nil {
			return err
		}
		there = true
		return r.Done(context.Background())
	},
	banger.Forward: func(w *world) error { return w.down(banger.Forward) },
	banger.Again:   func(w *world) error { return w.down(banger.Again) },
}

func (w *world) down(d banger.Direction) error {
	there := true
	r := w.run(banger.Plan{Subjects: w.subjects(), Kind: "end", Direction: d, Begun: w.all()}, &there)
	if err := r.Save(context.Background(), true); err != nil {
		return err
	}
	return w.settle(r, &there)
}

// settle is what anybody does who finds a plan.
func (w *world) settle(r *plan.Run, there *bool) error {
	ctx := context.Background()
	if err := r.Undo(ctx, w.steps...); err != nil {
		return err
	}
	*there = false
	if err := r.Rest(ctx); err != nil || r.Direction != banger.Again {
		return err
	}
	if err := r.Anew(); err != nil {
		return r.Done(ctx)
	}
	if err := r.Do(ctx, w.steps...); err != nil {
		return err
	}
	*there = true
	return r.Done(ctx)
}

// lives runs what somebody does who dies at a point, and says whether it was done.
func (w *world) lives(at int, do func() error) (done bool) {
	w.points, w.at = 0, at
	defer func() {
		if r := recover(); r != nil {
			if _, died := r.(death); !died {
				panic(r)
			}
		}
	}()
	return do() == nil
}

func (w *world) recover() error {
	if w.now.plan == nil {
		return nil
	}
	there := w.now.there
	p := *w.now.plan
	p.Begun = slices.Clone(p.Begun)
	return w.settle(w.run(p, &there), &there)
}

// cut is a power cut that loses so many of the notes that need not last.
func (w *world) cut(lost int) {
	w.now = w.past[max(0, len(w.past)-1-lost)]
	w.past = []notes{w.now}
	for _, s := range w.steps {
		if !s.Lasting {
			delete(w.effects, key(s))
		}
	}
}

// trial is one verb, a death at point i, one in the recovery at j and, with cut
// not below zero, a power cut after the first that loses so many notes.
func trial(w *world, d banger.Direction, i, j, cut int) (wrong string, during, recovery int) {
	if d != banger.Back { // what is to be taken down was made before
		if !w.lives(0, func() error { return verbs[banger.Back](w) }) {
			return "it could not even be made", 0, 0
		}
	}
	done := w.lives(i, func() error { return verbs[d](w) })
	during = w.points
	if cut >= 0 {
		w.cut(cut)
	}
	planned := w.now.plan != nil
	w.lives(j, w.recover)
	recovery = w.points
	if !w.lives(0, w.recover) {
		return "the last recovery failed", during, recovery
	}
	switch {
	case w.now.plan != nil:
		wrong = fmt.Sprintf("a plan stands: %+v", *w.now.plan)
	case len(w.crimes) > 0:
		wrong = w.crimes[0]
	case done && w.now.there != (d != banger.Forward):
		wrong = fmt.Sprintf("acknowledged, and then there: %v", w.now.there)
	case d == banger.Again && planned && !w.now.there:
		wrong = "it was to be done again, and isn't there"
	}
	for _, s := range w.steps {
		if has := w.effects[key(s)]; wrong == "" && has != w.now.there && (has || s.Lasting || cut < 0) {
			wrong = fmt.Sprintf("there %v, and %s %v", w.now.there, key(s), has)
		}
	}
	return wrong, during, recovery
}

// search lets whoever carries out each plan die everywhere, and whoever finds it.
func search(subjects int, sabotage func() func(notes, bool) (notes, bool)) (deaths, cuts int, wrong string) {
	try := func(d banger.Direction, i, j, cut int) (during, recovery int) {
		w := newWorld(subjects)
		if sabotage != nil {
			w.sabotage = sabotage()
		}
		var bad string
		if bad, during, recovery = trial(w, d, i, j, cut); bad != "" && wrong == "" {
			wrong = fmt.Sprintf("%d subjects, %s, death at %d, in recovery at %d, cut %d: %s", subjects, d, i, j, cut, bad)
		}
		return during, recovery
	}
	for d := range verbs {
		for i := 1; ; i++ {
			during, recovery := try(d, i, 0, -1)
			if during < i {
				break // there is no such point: it was acknowledged
			}
			deaths++
			for j := 1; j <= recovery; j++ {
				try(d, i, j, -1)
				deaths += 2
			}
			for lost := range 8 {
				_, recovery := try(d, i, 0, lost)
				for j := 1; j <= recovery; j++ {
					try(d, i, j, lost)
					cuts++
				}
			}
		}
	}
	return deaths, cuts, wrong
}

// Whoever dies at whatever point of a plan, whatever its direction and however
// many subjects it has, and whatever a power cut leaves of the journal: who comes
// next brings it to rest.
func TestDieEverywhere(t *testing.T) {
	for subjects := 1; subjects <= 2; subjects++ {
		deaths, cuts, wrong := search(subjects, nil)
		t.Logf("%d subjects: %d deaths tried, and %d power cuts with a death after them", subjects, deaths, cuts)
		if wrong != "" {
			t.Error(wrong)
		}
		if deaths < 500 || cuts < 1000 {
			t.Error("points were lost")
		}
	}
}

// The tests of the test: each journal makes one of the mistakes that the order
// of things is there to prevent.
func TestSaboteursAreCaught(t *testing.T) {
	for name, plant := range map[string]func() func(notes, bool) (notes, bool){
		"nothing it notes must last": func() func(notes, bool) (notes, bool) {
			return func(n notes, _ bool) (notes, bool) { return n, false }
		},
		"it notes a step once it is done": func() func(notes, bool) (notes, bool) {
			last := notes{}
			return func(n notes, durable bool) (notes, bool) {
				if n.plan == nil || n.plan.Direction == banger.Forward {
					return n, durable
				}
				last, n = n, last
				return n, durable
			}
		},
		"it forgets the last step": func() func(notes, bool) (notes, bool) {
			return func(n notes, durable bool) (notes, bool) {
				if n.plan != nil && len(n.plan.Begun) > 0 {
					n.plan.Begun = n.plan.Begun[:len(n.plan.Begun)-1]
				}
				return n, durable
			}
		},
		"it forgets that a plan goes on": func() func(notes, bool) (notes, bool) {
			return func(n notes, durable bool) (notes, bool) {
				if n.plan != nil && n.plan.Direction == banger.Again && len(n.plan.Begun) == 0 {
					n.plan = nil
				}
				return n, durable
			}
		},
		"it takes one subject's step for the other's": func() func(notes, bool) (notes, bool) {
			return func(n notes, durable bool) (notes, bool) {
				if n.plan != nil {
					for i, name := range n.plan.Begun {
						n.plan.Begun[i] = strings.Replace(name, "@y", "@x", 1)
					}
				}
				return n, durable
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			deaths, cuts, wrong := search(2, plant)
			if wrong == "" {
				t.Fatalf("not caught by %d deaths and %d power cuts", deaths, cuts)
			}
			t.Log("caught: " + wrong)
		})
	}
}

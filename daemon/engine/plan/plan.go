// Package plan carries out plans: steps, each with an undo, on one subject or several. Every
// step is recorded before it is done. If a daemon dies, the next one finishes the plan in
// its recorded direction.
//
// It knows nothing of what a subject is or where plans are kept: a function that records a
// plan with its subjects is passed in.
package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"banger"
)

// Step is one effect on a subject. Doing it twice must do no harm, nor undoing it twice, nor
// undoing what never was done.
type Step struct {
	Name    string
	Subject string // VM id; may be empty in a plan with one subject
	Lasting bool   // the effect survives a power cut, so the record that it began must, too
	Do      func(context.Context) error
	Undo    func(context.Context) error
}

// Run is a plan under way.
type Run struct {
	banger.Plan
	// Record records the plan, nil once it is over, with its subjects; with durable, so
	// that it survives a power cut.
	Record func(ctx context.Context, p *banger.Plan, durable bool) error
	Left   <-chan struct{}   // closed once the rest is to be left to the next daemon
	Tell   func(step string) // called before each step; may be nil
}

// ErrLeft is the error of a run whose rest is left to the next daemon. Its plan stays.
var ErrLeft = banger.Errorf(banger.CodeUnavailable, "%w", banger.ErrEnding).WithHint("the next daemon finishes what was begun, or undoes it: `banger ps` shows the VM's state")

// cut returns why no further step may begin; nil: one may.
func (r *Run) cut(ctx context.Context) error {
	select {
	case <-r.Left:
		return ErrLeft
	default:
		return ctx.Err()
	}
}

// Save records the plan as it is.
func (r *Run) Save(ctx context.Context, durable bool) error {
	p := r.Plan
	p.Subjects, p.Begun = slices.Clone(p.Subjects), slices.Clone(p.Begun)
	return r.Record(ctx, &p, durable)
}

// key is a step's name in Begun.
func (r *Run) key(s Step) string {
	if len(r.Subjects) > 1 {
		return s.Name + "@" + s.Subject
	}
	return s.Name
}

// Do does steps, each recorded before its first effect. On an error the caller must undo
// them; with ErrLeft the next daemon does.
func (r *Run) Do(ctx context.Context, steps ...Step) error {
	for _, s := range steps {
		if err := r.cut(ctx); err != nil {
			return err
		}
		if key := r.key(s); !slices.Contains(r.Begun, key) {
			r.Begun = append(r.Begun, key)
			if err := r.Save(ctx, s.Lasting); err != nil {
				return err
			}
		}
		if r.Tell != nil {
			r.Tell(s.Name)
		}
		if err := s.Do(ctx); err != nil {
			if cut := r.cut(ctx); errors.Is(cut, ErrLeft) {
				return cut // the error is not the step's own
			}
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return r.cut(ctx)
}

// Undo undoes those of steps that have begun, last first. After an error the plan stays, and
// Undo can be tried again.
func (r *Run) Undo(ctx context.Context, steps ...Step) error {
	for _, s := range slices.Backward(steps) {
		if !slices.Contains(r.Begun, r.key(s)) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.Undo(ctx); err != nil {
			return fmt.Errorf("undo %s: %w", s.Name, err)
		}
	}
	return nil
}

// Rest records that all is undone: the plan is over, or, with Again, its steps are to be done
// anew.
func (r *Run) Rest(ctx context.Context) error {
	r.Begun = nil
	if r.Direction == banger.Again {
		return r.Save(ctx, false) // acknowledged only once they are done
	}
	return r.Done(ctx)
}

// Done records that the plan is over: the acknowledgement.
func (r *Run) Done(ctx context.Context) error { return r.Record(ctx, nil, true) }

// maxTries bounds how often steps are done anew, by one daemon after the other.
const maxTries = 5

// Anew counts a try at doing the steps anew. An error means that there were too many: it may
// be these steps that daemons die of.
func (r *Run) Anew() error {
	if r.Tries >= maxTries {
		return banger.Errorf(banger.CodeUnavailable, "the %s was cut short %d times", r.Kind, r.Tries)
	}
	r.Tries++
	return nil
}

// Remaining returns how much is left of the plan's Timeout, at least floor: an earlier daemon
// may have died before it asked the guest.
func (r *Run) Remaining(now time.Time, floor time.Duration) time.Duration {
	left := r.Timeout - now.Sub(r.Opened)
	return min(max(left, floor), r.Timeout) // the host's clock may have been set in between
}

// Known returns an error for a plan that this build can't finish: one of an unknown kind or
// direction, with a step that isn't in steps, by kind, or with several subjects.
func Known(p banger.Plan, steps map[banger.PlanKind][]string) error {
	refuse := func(what string, name any) error {
		return banger.Errorf(banger.CodeConflict, "there is a plan of the kind %q, with the %s %q, which this banger doesn't know", p.Kind, what, name).
			WithHint("install the version that began it, or a later one; until then nothing of it is touched")
	}
	names, ok := steps[p.Kind]
	if !ok || !slices.Contains([]banger.Direction{banger.Back, banger.Forward, banger.Again}, p.Direction) {
		return refuse("direction", p.Direction)
	}
	if len(p.Subjects) != 1 {
		return refuse("subjects", p.Subjects)
	}
	for _, name := range p.Begun {
		if !slices.Contains(names, name) {
			return refuse("step", name)
		}
	}
	return nil
}

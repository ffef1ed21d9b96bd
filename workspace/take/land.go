package take

import (
	"cmp"
	"context"

	"banger"
)

// Work comes into the user's checkout by one thing of banger's alone. All is made and looked
// at beside it first; then git brings branch and files there in one run, or changes nothing.

// Landing is what would be done.
type Landing struct {
	Onto     string     // the checkout's newest commit; "" before the first
	Branch   string     // full name of the branch it is on; "" when detached
	Commit   string     // what it will be
	Forward  bool       // Commit is the work's own, not a merge
	Changes  []Change   // of the checkout's files
	Executes []Executes // what of them runs by itself from then on

	work *Work
	vm   string
}

// Landing makes the commit and looks at what it changes. CodeConflict when the checkout
// isn't clean; *Conflict when the two don't go together. Nothing has changed then.
func (w *Work) Landing(ctx context.Context, vm string) (*Landing, error) {
	if err := w.Host.Clean(ctx); err != nil {
		return nil, err
	}
	h, err := w.Host.Head(ctx)
	if err != nil {
		return nil, err
	}
	l := &Landing{Onto: h.Commit, Branch: h.Branch, work: w, vm: vm}
	if l.Commit, err = w.Merge(ctx, l.Onto, "Merge the work of vm "+vm, nil); err != nil {
		return nil, err
	}
	l.Forward = l.Commit == w.Tip
	if l.Changes, err = w.ChangesFrom(ctx, l.Onto, l.Commit); err != nil {
		return nil, err
	}
	l.Executes, err = w.Executes(ctx, l.Changes)
	return l, err
}

// Nothing reports whether there is nothing to land.
func (l *Landing) Nothing() bool { return l.Commit == l.Onto }

// Do lands. It is done as a whole or, with an error, not at all; the work is kept in the
// user's repository in either case.
func (l *Landing) Do(ctx context.Context) error {
	if err := l.work.Keep(ctx, l.vm, ""); err != nil {
		return err
	}
	if err := l.work.Store(ctx, l.Commit); err != nil {
		return err
	}
	if err := l.work.Host.Clean(ctx); err != nil { // it may have waited for an answer since
		return err
	}
	if h, err := l.work.Host.Head(ctx); err != nil || h.Commit != l.Onto || h.Branch != l.Branch {
		return cmp.Or(err, error(banger.Errorf(banger.CodeConflict, "%s is at another branch or commit now than when this was looked at", l.work.Host.Top).
			WithHint("land again")))
	}
	return l.work.Host.FastForward(ctx, l.Commit, "banger: land vm "+l.vm)
}

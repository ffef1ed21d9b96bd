package fleet

import (
	"context"
	"sync"
	"time"

	"banger/daemon/engine/plan"
)

// life is the time from Open to End, and all work in it.
type life struct {
	ctx  context.Context
	end  context.CancelFunc
	gate sync.Mutex // held while somebody begins to work, and while life ends
	wg   sync.WaitGroup
}

// begin begins the life. It doesn't end with ctx.
func (l *life) begin(ctx context.Context) {
	l.ctx, l.end = context.WithCancel(context.WithoutCancel(ctx))
}

// Context ends with the life. It is for work that no client waits for.
func (l *life) Context() context.Context { return l.ctx }

// enter counts one more who works, until l.wg.Done. ErrLeft: the life is over.
func (l *life) enter() error {
	l.gate.Lock()
	defer l.gate.Unlock()
	if l.ctx.Err() != nil {
		return plan.ErrLeft
	}
	l.wg.Add(1)
	return nil
}

// Go runs fn beside the caller, unless life is over.
func (l *life) Go(fn func(ctx context.Context)) {
	if l.enter() != nil {
		return
	}
	go func() {
		defer l.wg.Done()
		fn(l.ctx)
	}()
}

// closeTime is how long work that must not be broken off may take once the life is over.
const closeTime = 5 * time.Second

// Finish bounds work that goes on when its client leaves: it may take within, and only
// closeTime once the life is over.
func (l *life) Finish(ctx context.Context, within time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	stop := context.AfterFunc(l.ctx, func() { time.AfterFunc(closeTime, cancel) })
	return ctx, func() { stop(); cancel() }
}

// after runs fn once d has passed, unless life is over by then.
func (l *life) after(d time.Duration, fn func(ctx context.Context)) *time.Timer {
	return time.AfterFunc(d, func() { l.Go(fn) })
}

// End ends the life and returns when nobody works any more.
func (l *life) End() {
	l.gate.Lock()
	l.end()
	l.gate.Unlock()
	l.wg.Wait()
}

package plan

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Lock is a lock that is held while it has an element.
type Lock chan struct{}

// Take takes the locks of a plan's subjects, by id, and returns a function that releases
// them. It takes them in the order of the ids, so that there are no deadlocks. An error
// means that ctx ended first; then none is taken.
func Take(ctx context.Context, locks map[string]Lock) (release func(), err error) {
	var taken []Lock
	release = func() {
		for _, l := range taken {
			<-l
		}
	}
	for _, id := range slices.Sorted(maps.Keys(locks)) {
		select {
		case locks[id] <- struct{}{}:
			taken = append(taken, locks[id])
		case <-ctx.Done():
			release()
			return nil, ctx.Err()
		}
	}
	return release, nil
}

// maxPause bounds the pause between tries.
const maxPause = 5 * time.Minute

// Pauses are the pauses between tries, each twice as long as the one before. The zero value
// begins anew.
type Pauses struct {
	Why  error // what went wrong at the last try
	last time.Duration
}

// Next returns the pause after a failed try, which is first after the first one. news
// reports whether why differs from the error before.
func (p *Pauses) Next(why error, first time.Duration) (pause time.Duration, news bool) {
	news = p.Why == nil || p.Why.Error() != why.Error()
	p.Why, p.last = why, min(max(first, 2*p.last), max(first, maxPause))
	return p.last, news
}

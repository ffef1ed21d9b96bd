// Package journal keeps the latest events of a daemon's life in memory and
// streams them to clients that follow.
//
// It knows nothing of what events mean or who makes them. It keeps nothing on disk: what
// must survive is in the store.
package journal

import (
	"context"
	"fmt"
	"sync"

	"banger"
)

// Kept is how many events a Journal keeps.
const Kept = 1024

// Journal is a bounded ring of events. The zero value is empty and ready; its methods may be
// called concurrently.
type Journal struct {
	mu   sync.Mutex
	ring [Kept]banger.Event
	next uint64        // how many events there were so far; event n is at n % Kept
	more chan struct{} // closed by the next Add; nil: nobody waits
}

// Add appends an event. It never blocks: a slow reader misses the oldest events.
func (j *Journal) Add(e banger.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ring[j.next%Kept] = e
	j.next++
	if j.more != nil {
		close(j.more)
		j.more = nil
	}
}

// Events implements banger.SystemService.
func (j *Journal) Events(ctx context.Context, follow bool, each func(banger.Event)) error {
	at := j.oldest()
	for {
		batch, lost, more := j.since(at)
		if lost > 0 {
			each(banger.Event{Stage: banger.StageGap, Message: fmt.Sprintf("%d events are missing here", lost), Time: batch[0].Time})
		}
		for _, e := range batch {
			if ctx.Err() != nil {
				return nil
			}
			each(e)
		}
		at += lost + uint64(len(batch))
		if !follow {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

func (j *Journal) oldest() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next - min(j.next, Kept)
}

// since returns the events from number at on, how many of those are no longer kept, and a
// channel that is closed when there are more.
func (j *Journal) since(at uint64) (batch []banger.Event, lost uint64, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if oldest := j.next - min(j.next, Kept); at < oldest {
		lost, at = oldest-at, oldest
	}
	for ; at < j.next; at++ {
		batch = append(batch, j.ring[at%Kept])
	}
	if j.more == nil {
		j.more = make(chan struct{})
	}
	return batch, lost, j.more
}

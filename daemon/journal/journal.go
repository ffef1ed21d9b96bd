// Package journal keeps the latest events of a daemon's life in memory and
// streams them to whoever follows.
//
// It refuses to know what events mean and who makes them. Nothing is written
// down: what must be remembered is in the store.
package journal

import (
	"context"
	"fmt"
	"sync"

	"banger"
)

// Kept is how many events a Journal keeps.
const Kept = 1024

// Journal is a bounded ring of events. The zero value is empty and ready; all
// methods may be called side by side.
type Journal struct {
	mu   sync.Mutex
	ring [Kept]banger.Event
	next uint64        // events there ever were; event n is at n % Kept
	more chan struct{} // closed by the next Add; nil: nobody waits
}

// Add appends an event. It never blocks: who reads too slowly loses the oldest.
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

// Events is that of banger.System.
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

// since copies the events from number at on, says how many of them are no longer
// kept, and returns a channel that is closed when there is more.
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

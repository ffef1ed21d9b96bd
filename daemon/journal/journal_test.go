package journal_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"banger"
	"banger/daemon/journal"
)

func event(n int) banger.Event { return banger.Event{Op: fmt.Sprint(n), Stage: "running"} }

func read(t *testing.T, j *journal.Journal) (ops []string) {
	t.Helper()
	if err := j.Events(t.Context(), false, func(e banger.Event) { ops = append(ops, e.Op) }); err != nil {
		t.Fatal(err)
	}
	return ops
}

func TestBounded(t *testing.T) {
	var j journal.Journal
	if got := read(t, &j); got != nil {
		t.Errorf("an empty journal tells %v", got)
	}
	for n := range journal.Kept + 7 {
		j.Add(event(n))
	}
	got := read(t, &j)
	if len(got) != journal.Kept || got[0] != "7" || got[len(got)-1] != fmt.Sprint(journal.Kept+6) {
		t.Errorf("%d events from %s to %s", len(got), got[0], got[len(got)-1])
	}
}

// Followers see every event once and in order; one that stood still is told how
// many it missed.
func TestFollow(t *testing.T) {
	var j journal.Journal
	j.Add(event(0))
	var wg sync.WaitGroup
	ready := make(chan struct{}, 3)
	for range 3 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			n := 0
			_ = j.Events(ctx, true, func(e banger.Event) {
				if e.Op != fmt.Sprint(n) {
					t.Errorf("event %s where %d was due", e.Op, n)
				}
				if n++; n == 1 {
					ready <- struct{}{}
				}
				if n == 500 {
					cancel()
				}
			})
		})
	}
	for range 3 {
		<-ready
	}
	for n := 1; n < 500; n++ {
		j.Add(event(n))
	}
	wg.Wait()
}

func TestGap(t *testing.T) {
	var j journal.Journal
	j.Add(event(0))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, gap := 0, ""
	err := j.Events(ctx, true, func(e banger.Event) {
		if seen++; seen == 1 {
			for n := range journal.Kept + 9 {
				j.Add(event(n + 1))
			}
		}
		if e.Stage == banger.StageGap {
			gap = e.Message
		}
		if e.Op == fmt.Sprint(journal.Kept+9) {
			cancel()
		}
	})
	if err != nil || gap != "9 events are missing here" {
		t.Errorf("gap %q, %v", gap, err)
	}
}

package kvm

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// Who waits for a processor, as in a cgroup that is held back, takes none of its time.
func TestMeterCountsProcessorTime(t *testing.T) {
	const bound = 50 * time.Millisecond
	var stopped atomic.Bool
	stop := func(int) { stopped.Store(true) }
	waits := func() error { time.Sleep(3 * bound); return nil }
	if took, err := meter(t.Context(), bound, waits, stop); err != nil || took > bound {
		t.Errorf("a thread that waited took %s, %v", took, err)
	}
	works := func() error {
		for !stopped.Load() {
			spin(iterations)
		}
		return nil
	}
	if took, err := meter(t.Context(), bound, works, stop); !errors.Is(err, errSlow) || took < bound {
		t.Errorf("a thread that worked took %s, %v", took, err)
	}
	stopped.Store(false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := meter(ctx, time.Hour, works, stop); !errors.Is(err, context.Canceled) {
		t.Errorf("a thread whose context ended: %v", err)
	}
}

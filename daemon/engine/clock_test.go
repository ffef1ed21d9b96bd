package engine_test

import (
	"sync/atomic"
	"testing"
	"time"

	"banger"
)

// The host's calendar jumps, by hand or by NTP, while VMs are made, run and end,
// and while no daemon lives: records say what the calendar said; nothing else
// depends on it.
func TestClockJumps(t *testing.T) {
	w := newWorld(t)
	var ahead atomic.Int64
	w.now = func() time.Time { return time.Now().Round(0).Add(time.Duration(ahead.Load())) }
	d := w.open(nil)
	for i, jump := range []time.Duration{10 * 365 * 24 * time.Hour, -20 * 365 * 24 * time.Hour, 0, -time.Hour, time.Hour} {
		for _, restart := range []bool{false, true} {
			before := d.make(t, banger.Spec{Name: "before"})
			ahead.Store(int64(jump))
			if restart {
				d.kill()
				d = w.open(nil)
			}
			got, err := d.VM(t.Context(), "before")
			must(t, err)
			if got.State != banger.Running || got.Held != before.Held {
				t.Errorf("jump %d, restart %v: %+v", i, restart, got)
			}
			after := d.make(t, banger.Spec{Name: "after"})
			if off := after.Created.Sub(w.now()); off < -time.Minute || off > time.Minute {
				t.Errorf("created at %s, the calendar says %s", after.Created, w.now())
			}
			// A guest that ends, one that reboots, and a stop.
			d.host.EndGuest(after.ID, banger.Exit{Kind: banger.ExitReboot})
			must(t, d.until("after", runs(2)))
			_, err = d.StopVM(t.Context(), "before", banger.StopOptions{})
			must(t, err)
			_, err = d.StartVM(t.Context(), "before", banger.StartOptions{}, nil)
			must(t, err)
			w.settled(d)
			report(t, w.check(d), "after the jump")
			must(t, d.DeleteVM(t.Context(), "before"))
			must(t, d.DeleteVM(t.Context(), "after"))
			ahead.Store(0)
		}
	}
	d.kill()
}

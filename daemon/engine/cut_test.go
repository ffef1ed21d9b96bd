package engine_test

import (
	"context"
	"fmt"
	"testing"

	"banger"
	"banger/fake"
)

// cut has the power fail when the verb's point i was reached, which loses the
// last commits, at most so many, that weren't durable, and reports what is wrong
// after the next boot, how many points there were and how many commits were lost.
func cut(w *world, v verb, i, most int) (bad []string, during, lost int) {
	t := newTrial(w, v)
	s := &script{at: -1, fate: fake.Die}
	d := w.open(s.decide)
	s.arm(i)
	err := d.call(v)
	d.kill()
	w.host.Reboot()
	lost = w.store.(*fake.Store).PowerCut(most)
	d = w.open(nil)
	w.settled(d)
	vm, startErr := d.StartVM(context.Background(), "old", nil)
	if startErr != nil {
		return []string{fmt.Sprintf("the VM that ran doesn't start again: %v", startErr)}, s.count(), lost
	}
	w.old = vm
	// What ran has stopped; that it is there, or isn't, is what was acknowledged.
	t.v.after = func(found *banger.VM) bool {
		return v.after(found) || found != nil && found.State == banger.Stopped && v.after(&banger.VM{State: banger.Running, Boots: found.Boots, Spec: found.Spec})
	}
	return t.end(d, err == nil, false), s.count(), lost
}

// A power cut at any point, whatever it left of the commits that weren't durable,
// leaves nothing that no VM owns and loses nothing that was acknowledged. What was
// done to files lasts; that it may not is what the lab is for.
func TestPowerCutEverywhere(t *testing.T) {
	w := newWorld(t)
	cuts, late := 0, 0
	for _, v := range verbs {
		for i, points := 0, 1; i <= points; i++ {
			for most := 0; ; most++ {
				var bad []string
				var lost int
				bad, points, lost = cut(w, v, i, most)
				report(t, bad, "%s, cut at point %d with %d commits lost", v.name, i, lost)
				cuts++
				late += min(lost, 1)
				if lost < most { // there are no more to lose
					break
				}
			}
		}
	}
	t.Logf("%d cuts tried, %d of them lost commits", cuts, late)
	if late == 0 {
		t.Error("no commit was ever lost")
	}
}

package engine_test

import (
	"context"
	"fmt"
	"testing"

	"banger"
	"banger/test/fake"
)

// cut has the power fail when the verb's point i was reached, which loses the
// last commits, at most so many, that weren't durable, and reports what is wrong
// after the next boot and how many commits were lost.
func cut(w *world, v verb, i, most int) (bad []string, s *script, lost int) {
	s = &script{fate: fake.Die}
	t := newTrial(w, v, s, i)
	t.cut = true
	_ = t.call()
	t.d.kill()
	w.host.Reboot()
	lost = w.store.(*fake.Store).PowerCut(most)
	d := w.open(nil)
	bad = w.settle(d)
	vm, err := d.StartVM(context.Background(), "old", banger.StartOptions{}, nil)
	if err != nil {
		return append(bad, fmt.Sprintf("the VM that ran doesn't start again: %v", err)), s, lost
	}
	w.old = vm
	// What ran has stopped; that it is there, or isn't, is what was acknowledged.
	return append(bad, t.end(d)...), s, lost
}

// cuts has the power fail everywhere, with all that it may lose.
func cuts(w *world, v verb, count func(string)) string {
	for i, step := sample(v); ; i += step {
		points := 0
		for most := 0; ; most++ {
			if !*deep && most == 2 { // and then all
				most = 1 << 20
			}
			bad, s, lost := cut(w, v, i, most)
			if bad != nil {
				return said(bad, "cut at %s with %d commits lost", s.where(), lost)
			}
			points = s.count()
			count("power cuts")
			if lost < most { // there are no more to lose
				break
			}
			if lost > 0 {
				count("of them lost commits")
			}
		}
		if i >= points { // after the last one, too
			return ""
		}
	}
}

// A power cut at any point, whatever it left of the commits that weren't durable,
// leaves nothing that no VM owns and loses nothing that was acknowledged. What was
// done to files lasts; that it may not is what the lab is for.
func TestPowerCutEverywhere(t *testing.T) {
	if counts := everywhere(t, cuts); counts["of them lost commits"] == 0 {
		t.Error("no commit was ever lost")
	}
}

package plan_test

import (
	"encoding/json"
	"slices"
	"testing"

	"banger"
	"banger/daemon/engine/plan"
)

// Whatever a record has for a plan, this build knows every step of it or touches
// nothing; and writing it again loses nothing that it knows.
func FuzzPlan(f *testing.F) {
	f.Add([]byte(`{"id":"a","subjects":["x"],"kind":"create","direction":"back","begun":["file"],"opened":"2026-11-30T00:00:00Z"}`))
	f.Add([]byte(`{"kind":"stop","direction":"sideways","begun":null}`))
	f.Add([]byte(`{"subjects":["x","y"],"kind":"fork","direction":"forward","begun":["a"],"timeout":-1}`))
	steps := map[banger.PlanKind][]string{banger.PlanCreate: {"file", "device"}, banger.PlanDelete: {"file"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p, again banger.Plan
		if json.Unmarshal(data, &p) != nil {
			return
		}
		if plan.Known(p, steps) == nil {
			for _, s := range p.Begun {
				if !slices.Contains(steps[p.Kind], s) {
					t.Errorf("%q has the step %q", data, s)
				}
			}
			if len(p.Subjects) != 1 || p.Direction == "" {
				t.Errorf("%q is known", data)
			}
		}
		written, err := json.Marshal(p)
		if err != nil {
			return // a year that no record has
		}
		if err := json.Unmarshal(written, &again); err != nil {
			t.Fatal(err)
		}
		if twice, err := json.Marshal(again); err != nil || string(twice) != string(written) {
			t.Errorf("%s became %s, %v", written, twice, err)
		}
	})
}

package main

import (
	"slices"
	"testing"
)

// Every operation has its turn, each way a cut can be is drawn, and a run that goes on
// with a seed draws what the one before it would have.
func TestPlanCut(t *testing.T) {
	seen := map[string]int{}
	var inside, after, all, some, eager int
	for n := range 600 {
		p, again := planCut(7, n), planCut(7, n)
		p.rnd, again.rnd = nil, nil
		if p.eager {
			eager++
		}
		if p != again {
			t.Fatalf("cut %d is %+v, then %+v", n, p, again)
		}
		seen[p.op]++
		if p.answered {
			after++
		} else {
			inside++
		}
		if p.kept == 0 {
			all++
		} else {
			some++
		}
	}
	for op, n := range seen {
		if n != 600/len(seen) {
			t.Errorf("%s comes %d times of 600", op, n)
		}
	}
	if len(seen) != len(cutOps) || min(inside, after, eager, 600-eager) < 200 || all < 100 || some < 300 {
		t.Errorf("%v, %d inside, %d after, %d lose all, %d some, %d eager", seen, inside, after, all, some, eager)
	}
	firsts := map[string]bool{}
	for seed := range uint64(100) {
		firsts[planCut(seed, 0).op] = true
	}
	if len(firsts) != len(seen) {
		t.Errorf("all seeds begin with %v", firsts)
	}
}

// What would be planted is in the tree as it is.
func TestPlants(t *testing.T) {
	for name, p := range plants {
		if !slices.Contains(cutOps, p.op) {
			t.Errorf("%s: there is no operation %q", name, p.op)
		}
		if text, err := p.put("../.."); err != nil || len(text) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (plant{"sync", "host/hostfs/hostfs.go", "return nil", "return err"}).put("../.."); err == nil {
		t.Error("a mistake for two places is planted in one")
	}
	for _, s := range allSteps(options{}) {
		if _, known := plants[s.plant]; s.plant != "" && !known {
			t.Errorf("%s plants %q, which is nothing", s.name, s.plant)
		}
	}
}

// A step with a planted mistake is good when it failed, and only then.
func TestExpectFailure(t *testing.T) {
	var found result
	for _, line := range []string{"=== RUN   TestPowerCut", "    cut_test.go:7: it is gone", "--- FAIL: TestPowerCut (1.00s)"} {
		found.read(line)
	}
	found.status = "1"
	if found.expectFailure(2); !found.ok() || found.said != "cut_test.go:7: it is gone" || !slices.Contains(found.passed, "TestPowerCut") {
		t.Errorf("found, and the result is %+v", found)
	}
	missed := result{status: "0", passed: []string{"TestPowerCut"}}
	if missed.expectFailure(3); missed.ok() {
		t.Errorf("not found, and the result is %+v", missed)
	}
	unended := result{passed: []string{"create"}}
	if unended.expectFailure(3); unended.ok() {
		t.Errorf("it didn't end, and the result is %+v", unended)
	}
}

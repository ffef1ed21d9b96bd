package banger_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"banger"
)

// Every transition of the table is possible and every other one is refused.
func TestAdvanceFollowsTheTable(t *testing.T) {
	for _, from := range banger.States() {
		allowed := map[banger.State]bool{}
		for _, to := range banger.Next(from) {
			allowed[to] = true
		}
		for _, to := range banger.States() {
			vm := banger.VM{ID: "0123456789ab", State: from}
			err := vm.Advance(to, "test")
			if allowed[to] != (err == nil) {
				t.Errorf("%q to %q: allowed %v, got %v", from, to, allowed[to], err)
			}
			if err != nil && vm.State != from {
				t.Errorf("%q to %q was refused and changed the state to %q", from, to, vm.State)
			}
		}
	}
}

// A VM in any state can still be deleted, and nothing leaves Deleting but the end.
func TestEveryStateLeadsOut(t *testing.T) {
	for _, s := range banger.States() {
		if s == banger.Gone {
			continue
		}
		seen := map[banger.State]bool{}
		var reach func(banger.State) bool
		reach = func(s banger.State) bool {
			if s == banger.Gone {
				return true
			}
			if seen[s] {
				return false
			}
			seen[s] = true
			for _, n := range banger.Next(s) {
				if reach(n) {
					return true
				}
			}
			return false
		}
		if !reach(s) {
			t.Errorf("a VM in %q can never be removed", s)
		}
	}
}

// The diagram in ARCHITECTURE.md is the table.
func TestDiagram(t *testing.T) {
	var b strings.Builder
	for _, s := range banger.States() {
		for _, n := range banger.Next(s) {
			fmt.Fprintf(&b, "    %s --> %s\n", name(s), name(n))
		}
	}
	doc, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), b.String()) {
		t.Errorf("ARCHITECTURE.md must hold this diagram:\n%s", b.String())
	}
}

func name(s banger.State) string {
	if s == banger.Gone {
		return "[*]"
	}
	return string(s)
}

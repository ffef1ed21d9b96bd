package main

import (
	"slices"
	"testing"
)

// Labs at once run every step once, each lab its own in the order of all, and
// the longest of them no longer than the longest step needs it to.
func TestShare(t *testing.T) {
	steps := []step{{name: "a", takes: 3}, {name: "b", takes: 110}, {name: "c"}, {name: "d", takes: 400}, {name: "e", takes: 200}}
	parts := share(steps, 2)
	if len(parts) != 2 {
		t.Fatalf("%d parts", len(parts))
	}
	var all []string
	for _, part := range parts {
		sum, last := 0, -1
		for _, s := range part {
			i := slices.IndexFunc(steps, func(o step) bool { return o.name == s.name })
			if i <= last {
				t.Errorf("%s is out of order in %v", s.name, part)
			}
			last, sum, all = i, sum+s.takes, append(all, s.name)
		}
		if sum > 400 {
			t.Errorf("%v takes %d s", part, sum)
		}
	}
	if slices.Sort(all); !slices.Equal(all, []string{"a", "b", "c", "d", "e"}) {
		t.Errorf("shared out are %v", all)
	}
	if parts := share(steps[:1], 4); len(parts) != 1 {
		t.Errorf("one step in %d labs", len(parts))
	}
}

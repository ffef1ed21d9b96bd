package uml

import (
	"maps"
	"os"
	"testing"
	"time"
)

// Machines get the processors that have the least to do, and several at once each another.
func TestSpread(t *testing.T) {
	now := time.Unix(0, 0)
	seen := map[int]ticks{0: {10, 10}, 1: {10, 10}, 2: {10, 10}}
	s := &spread{looks: func() (map[int]ticks, error) { return maps.Clone(seen), nil }, now: func() time.Time { return now }}
	s.given, s.busy, s.at = map[int]int{}, map[int]float64{}, now
	s.last, _ = s.looks()
	pass := func(idle0, idle1, idle2 uint64) {
		for cpu, idle := range []uint64{idle0, idle1, idle2} {
			seen[cpu] = ticks{seen[cpu].idle + idle, seen[cpu].all + 100}
		}
		now = now.Add(time.Second)
	}
	got := map[int]int{}
	for range 6 {
		got[s.next([]int{0, 1, 2})]++
	}
	if !maps.Equal(got, map[int]int{0: 2, 1: 2, 2: 2}) {
		t.Errorf("at once: %v", got)
	}
	pass(0, 100, 0)
	if cpu := s.next([]int{0, 1, 2}); cpu != 1 {
		t.Errorf("one is idle: %d", cpu)
	}
	pass(100, 0, 20)
	if cpu := s.next([]int{1, 2}); cpu != 2 {
		t.Errorf("one may not be used: %d", cpu)
	}
	pass(50, 50, 50)
	if cpu := s.next([]int{7}); cpu != 7 {
		t.Errorf("nothing is known of the only one: %d", cpu)
	}
}

func TestTicks(t *testing.T) {
	got := ticksIn("cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 40 5 6 7 8 0 0\ncpu12 0 0 0 1 0 0 0 0 0 0\nintr 5\ncpu3 1\n")
	if want := (map[int]ticks{0: {45, 72}, 12: {1, 1}}); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil || len(ticksIn(string(text))) == 0 {
		t.Errorf("this host's: %v", err)
	}
}

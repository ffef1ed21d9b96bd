package main

import (
	"time"

	"banger"
)

// laps are the steps of one run.
type laps []banger.Stage

func (l laps) total() (sum time.Duration) {
	for _, s := range l {
		sum += s.Took
	}
	return sum
}

// stopwatch takes the time of the steps of a run.
type stopwatch struct {
	last time.Time
	laps laps
	seen bool
}

func newStopwatch() *stopwatch { return &stopwatch{last: time.Now()} }

func (s *stopwatch) lap(name string) {
	now := time.Now()
	s.laps = append(s.laps, banger.Stage{Name: name, Took: now.Sub(s.last)})
	s.last = now
}

// Write ends the run with the first byte of a command's output.
func (s *stopwatch) Write(p []byte) (int, error) {
	if !s.seen {
		s.lap("the command's first byte")
		s.seen = true
	}
	return len(p), nil
}

// timings gather the same steps of many runs.
type timings struct {
	names []string
	took  map[string][]time.Duration
}

func (t *timings) add(stages []banger.Stage) {
	if t.took == nil {
		t.took = map[string][]time.Duration{}
	}
	for _, s := range stages {
		if t.took[s.Name] == nil {
			t.names = append(t.names, s.Name)
		}
		t.took[s.Name] = append(t.took[s.Name], s.Took)
	}
}

func (t *timings) print() {
	for _, name := range t.names {
		print("  "+name, t.took[name])
	}
}

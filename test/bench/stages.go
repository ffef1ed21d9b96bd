package main

import (
	"time"

	"banger"
)

// step is a timed step of a run.
type step struct {
	name string
	took time.Duration
}

// laps are the steps of one run.
type laps []step

func (l laps) total() (sum time.Duration) {
	for _, s := range l {
		sum += s.took
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
	s.laps = append(s.laps, step{name, now.Sub(s.last)})
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

func (t *timings) add(steps []step) {
	if t.took == nil {
		t.took = map[string][]time.Duration{}
	}
	for _, s := range steps {
		if t.took[s.name] == nil {
			t.names = append(t.names, s.name)
		}
		t.took[s.name] = append(t.took[s.name], s.took)
	}
}

// launched are the steps that a daemon tells of a start.
func launched(l *banger.Launch) (steps []step) {
	for _, s := range l.Stages {
		steps = append(steps, step{s.Name, time.Duration(s.TookMS) * time.Millisecond})
	}
	return steps
}

func (t *timings) print() {
	for _, name := range t.names {
		print("  "+name, t.took[name])
	}
}

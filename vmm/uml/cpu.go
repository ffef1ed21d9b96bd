package uml

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// spread gives machines processors of the host. A machine has one: kernel and programs of a guest
// hand over to each other at each system call, which takes seven times as long between
// processors. It gets the one that was idle most of the time since the last look, and of several
// that start at once each gets another.
type spread struct {
	mu    sync.Mutex
	looks func() (map[int]ticks, error)
	now   func() time.Time

	at    time.Time
	last  map[int]ticks
	busy  map[int]float64 // share of the time, until at
	given map[int]int     // machines since then
}

// ticks are a processor's, in proc_stat(5)'s unit.
type ticks struct{ idle, all uint64 }

// span is how long the load of a processor is looked at, at least.
const span = 200 * time.Millisecond

func newSpread() *spread {
	s := &spread{looks: stat, now: time.Now, given: map[int]int{}, busy: map[int]float64{}}
	s.last, _ = s.looks() // without it no processor counts as busy
	s.at = s.now()
	return s
}

// next returns one of the processors in set.
func (s *spread) next(set []int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); now.Sub(s.at) >= span {
		if seen, err := s.looks(); err == nil {
			s.busy, s.given = map[int]float64{}, map[int]int{}
			for cpu, t := range seen {
				if all := t.all - s.last[cpu].all; t.all > s.last[cpu].all {
					s.busy[cpu] = 1 - min(1, float64(t.idle-s.last[cpu].idle)/float64(all))
				}
			}
			s.at, s.last = now, seen
		}
	}
	from, best := rand.IntN(len(set)), -1 // no other daemon begins with the same one
	for i := range set {
		cpu := set[(from+i)%len(set)]
		if best < 0 || s.load(cpu) < s.load(best) {
			best = cpu
		}
	}
	s.given[best]++
	return best
}

// load counts a machine that was just given a processor as if it used all of it. Shares that
// differ by little are the same.
func (s *spread) load(cpu int) int { return int(4*s.busy[cpu]) + 4*s.given[cpu] }

// cpus returns the processors that this process may use.
func cpus() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("processors of this host: %w", err)
	}
	var list []int
	for cpu := 0; len(list) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			list = append(list, cpu)
		}
	}
	return list, nil
}

// stat reads what processors have done since the host's start.
func stat() (map[int]ticks, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, err
	}
	return ticksIn(string(text)), nil
}

// ticksIn reads a /proc/stat. A line is cpuN user nice system idle iowait irq softirq steal ...
func ticksIn(text string) map[int]ticks {
	seen := map[int]ticks{}
	for line := range strings.Lines(text) {
		var cpu int
		var f [8]uint64
		n, _ := fmt.Sscanf(line, "cpu%d %d %d %d %d %d %d %d %d", &cpu, &f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6], &f[7])
		if n != 9 || strings.HasPrefix(line, "cpu ") { // that is all of them
			continue
		}
		t := ticks{idle: f[3] + f[4]}
		for _, part := range f {
			t.all += part
		}
		seen[cpu] = t
	}
	return seen
}

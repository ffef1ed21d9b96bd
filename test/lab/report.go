package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// result is how one step ended.
type result struct {
	name                    string
	status                  string // of the test binary: "0" is good; "" when it didn't end
	took                    time.Duration
	passed, failed, skipped []string
	said                    string // the last line that a test logged
}

// ok says whether a step showed something, and nothing bad.
func (r result) ok() bool { return r.status == "0" && len(r.passed) > 0 && len(r.failed) == 0 }

// read takes one line of a test binary's -test.v output.
func (r *result) read(line string) {
	line = strings.TrimSpace(line)
	for prefix, list := range map[string]*[]string{"--- PASS: ": &r.passed, "--- FAIL: ": &r.failed, "--- SKIP: ": &r.skipped} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			*list = append(*list, strings.Fields(rest)[0])
		}
	}
	if strings.Contains(line, "_test.go:") {
		r.said = line
	}
}

// expectFailure turns round what a step with a planted mistake came to.
func (r *result) expectFailure(cuts int) {
	if r.status == "0" || len(r.failed) == 0 {
		r.failed = append(r.failed, fmt.Sprintf("the planted mistake wasn't found by %d cuts", cuts))
		return
	}
	fmt.Printf("%-20s found: %s\n", r.name, r.said)
	r.status, r.failed, r.passed = "0", nil, append(r.passed, r.failed...)
}

// runSteps boots the lab and runs the steps. Should the lab itself die, it is
// booted again with the steps that have no end yet: the lab is tried again, a
// test never is.
func (l *lab) runSteps(ctx context.Context, steps []step, r *report) error {
	for boot := 0; len(steps) > 0; boot++ {
		if boot > 0 {
			if boot > l.o.retries {
				return fmt.Errorf("the lab died %d times; its console is in %s", boot, l.o.out)
			}
			r.again()
			fmt.Printf("The lab itself died: booting it again for %d steps (%d of %d)\n", len(steps), boot, l.o.retries)
			if err := l.prepare(ctx, steps); err != nil {
				return err
			}
		}
		ended, whole, err := l.runOnce(ctx, fmt.Sprintf("console-%d.log", boot), r)
		err = errors.Join(err, l.fetch(ctx))
		if err != nil || whole {
			return err
		}
		if steps = steps[ended:]; l.o.over() {
			r.leave(steps, l.o.budget)
			return nil
		}
	}
	return nil
}

// runOnce is one boot. It returns how many steps ended, and whether the job did.
func (l *lab) runOnce(ctx context.Context, console string, r *report) (ended int, whole bool, err error) {
	timed, cancel := l.o.within(ctx)
	defer cancel()
	began := time.Now()
	m, err := l.boot(timed, "job", console)
	if err != nil {
		return 0, false, err
	}
	var now result
	var log *os.File
	for line := range m.lines {
		word := strings.Fields(line + " ")
		switch {
		case strings.HasPrefix(line, "LAB-STEP ") && len(word) == 2:
			if now.name == "" && ended == 0 {
				fmt.Printf("%-20s up in %.0f s\n", "lab", time.Since(began).Seconds())
			}
			now, began = result{name: word[1]}, time.Now()
			if log, err = os.Create(filepath.Join(l.o.out, now.name+".log")); err != nil {
				_ = m.cut()
				return ended, false, err
			}
		case strings.HasPrefix(line, "LAB-DONE ") && len(word) == 3:
			now.status, now.took = word[2], time.Since(began)
			r.add(now)
			ended++
			err = log.Close()
			log = nil // what sync or a left-over process says between steps is no step's
		case strings.HasPrefix(line, "LAB-EXIT "):
			whole = true
		case log != nil:
			now.read(line)
			_, err = fmt.Fprintln(log, line)
		}
		if err != nil {
			_ = m.cut()
			return ended, false, err
		}
	}
	err = m.end()
	if ctx.Err() != nil {
		return ended, false, context.Cause(ctx)
	}
	if l.o.over() {
		return ended, false, nil
	}
	if timed.Err() != nil {
		return ended, false, fmt.Errorf("the lab didn't end within %v (step %s): %w", l.o.deadline, now.name, err)
	}
	return ended, whole, nil
}

// report is what ran and what didn't, of all labs.
type report struct {
	left []step

	mu      sync.Mutex
	results []result
	retried int
}

// again counts a lab that died by itself.
func (r *report) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retried++
}

// leave notes steps that the budget left no time for, or not enough.
func (r *report) leave(steps []step, budget time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range steps {
		s.without = fmt.Sprintf("not to its end within the budget of %v", budget)
		r.left = append(r.left, s)
	}
}

func (r *report) add(got result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results = append(r.results, got)
	verdict := "ok"
	if !got.ok() {
		verdict = "FAIL"
	}
	fmt.Printf("%-20s %-4s %4.0f s  %d passed, %d failed, %d skipped\n", got.name, verdict, got.took.Seconds(), len(got.passed), len(got.failed), len(got.skipped))
	for _, name := range got.failed {
		fmt.Printf("%-20s failed: %s\n", "", name)
	}
	for _, name := range got.skipped {
		fmt.Printf("%-20s skipped: %s\n", "", name)
	}
}

// print ends the report. A step that failed, or that passed without a test, is an
// error; one left out is said to be, and is none.
func (r *report) print() error {
	bad := 0
	for _, got := range r.results {
		if !got.ok() {
			bad++
		}
	}
	for _, s := range r.left {
		fmt.Printf("%-20s not run: %s\n", s.name, s.without)
	}
	fmt.Printf("%d steps ran, %d failed, %d not run; the lab was booted again %d times\n", len(r.results), bad, len(r.left), r.retried)
	if bad > 0 {
		return fmt.Errorf("%d steps failed", bad)
	}
	if len(r.results) == 0 {
		return errors.New("nothing ran")
	}
	return nil
}

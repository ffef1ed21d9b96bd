package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// powerCuts kills the lab's emulator in the middle of operations and boots it
// again on the same disks. Its step's test checks what the cut before left, then
// begins the operation that the kernel's command line names.
func (l *lab) powerCuts(ctx context.Context, s step, r *report) error {
	if err := l.prepare(ctx, []step{s}); err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(l.o.seed, 0))
	fmt.Printf("%-20s seed %d\n", s.name, l.o.seed)
	ops := []string{"create", "start", "stop", "delete"}
	first := rnd.IntN(len(ops))
	res, began := result{name: s.name}, time.Now()
	died := 0
	for n := 0; n <= l.o.cuts && res.status == ""; {
		if l.o.over() {
			r.leave([]step{s}, l.o.budget)
			return l.fetch(ctx)
		}
		op := ""
		if n < l.o.cuts {
			op = ops[(first+n)%len(ops)]
		}
		cut, err := l.runToCut(ctx, fmt.Sprintf("%s-%d", s.name, n), op, rnd, &res)
		switch {
		case err != nil:
			return errors.Join(err, l.fetch(ctx))
		case cut != "":
			fmt.Printf("%-20s cut %d of %d, %s\n", "", n+1, l.o.cuts, cut)
			res.passed = append(res.passed, cut)
			n++
		case res.status == "" && !l.o.over(): // the lab's own death, which is a power cut as well
			if died++; died > l.o.retries {
				return fmt.Errorf("the lab died %d times by itself; its console is in %s", died, l.o.out)
			}
			r.again()
		}
	}
	res.took = time.Since(began)
	if len(res.passed) <= l.o.cuts { // the last of them is the test's own end
		res.failed = append(res.failed, fmt.Sprintf("%d of %d cuts", len(res.passed), l.o.cuts))
	}
	r.add(res)
	return l.fetch(ctx)
}

// runToCut boots the lab for one operation and cuts the power in its middle: at
// a random moment of the time that the operation took before. It returns what it
// cut, or "" when the job came to an end or the lab to its own.
func (l *lab) runToCut(ctx context.Context, name, op string, rnd *rand.Rand, res *result) (cut string, err error) {
	timed, cancel := l.o.within(ctx)
	defer cancel()
	log, err := os.Create(filepath.Join(l.o.out, name+".log"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	m, err := l.boot(timed, "job lab.op="+op, "console-"+name+".log")
	if err != nil {
		return "", err
	}
	var due <-chan time.Time
	var after time.Duration
	for {
		select {
		case <-due:
			err := m.cmd.Process.Kill()
			for range m.lines {
			}
			_ = m.cmd.Wait() // it ended by the signal
			return fmt.Sprintf("%s %v in", op, after), err
		case line, more := <-m.lines:
			if !more {
				err := m.cmd.Wait()
				if ctx.Err() != nil {
					return "", context.Cause(ctx)
				}
				if timed.Err() != nil && !l.o.over() {
					return "", fmt.Errorf("the lab didn't end within %v: %w", l.o.deadline, err)
				}
				return "", nil
			}
			if _, err := fmt.Fprintln(log, line); err != nil {
				return "", errors.Join(err, m.cut())
			}
			switch word := append(strings.Fields(line), "", "", ""); word[0] {
			case "LAB-BEGIN": // LAB-BEGIN OPERATION MILLISECONDS: it begins, and took so long before
				ms, _ := strconv.Atoi(word[2]) // 0 is a moment as good as others
				after = time.Duration(rnd.IntN(max(1, ms))) * time.Millisecond
				due = time.After(after)
			case "LAB-END": // too late
				due = nil
			case "LAB-DONE":
				res.status = word[2]
			default:
				res.read(line)
			}
		}
	}
}

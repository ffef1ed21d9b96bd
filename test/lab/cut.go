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

// cutPlan is what is done when the power goes, when that is, and what of the
// root disk's unflushed writes is kept.
type cutPlan struct {
	op       string  // "": nothing is to be cut
	answered bool    // once the operation is acknowledged, in its middle otherwise
	moment   float64 // of the time that the operation took before, or of a second after its answer
	kept     float64 // share of the sectors; the others are lost
	eager    bool    // the lab's kernel writes soon what nobody has it flush: more is lost or kept in another order
	rnd      *rand.Rand
}

var cutOps = []string{"create", "delete", "sync", "start", "import", "stop"}

// planCut draws the cut number n of a seed: the same one whatever came before it.
// The operations take turns, as all have to be seen.
func planCut(seed uint64, n int) cutPlan {
	first := rand.New(rand.NewPCG(seed, 1<<63)).IntN(len(cutOps))
	rnd := rand.New(rand.NewPCG(seed, uint64(n)))
	p := cutPlan{op: cutOps[(first+n)%len(cutOps)], answered: rnd.IntN(2) == 0, moment: rnd.Float64(), rnd: rnd}
	if rnd.IntN(3) > 0 { // else all are lost, which is what most drives would do
		p.kept = rnd.Float64()
	}
	p.eager = rnd.IntN(2) == 0
	return p
}

// job is the lab's mode, for the kernel's command line.
func (p cutPlan) job() string { return fmt.Sprintf("job lab.op=%s lab.eager=%v", p.op, p.eager) }

// powerCuts kills the lab's emulator in the middle of operations, or right after
// them, has the root disk lose what wasn't flushed, and boots the lab again. Its step's
// test checks what the cut before left, then begins the operation that the kernel's
// command line names. Where a mistake was planted, it is to be found so.
func (l *lab) powerCuts(ctx context.Context, s step, r *report) error {
	l.plant = s.plant
	if err := l.prepare(ctx, []step{s}); err != nil {
		return err
	}
	fmt.Printf("%-20s seed %d\n", s.name, l.o.seed)
	res, began := result{name: s.name}, time.Now()
	n, died := l.o.done, 0
	for n <= l.o.cuts && res.status == "" {
		if l.o.over() {
			fmt.Printf("%-20s %d of %d cuts; go on with -seed %d -done %d\n", s.name, n, l.o.cuts, l.o.seed, n)
			r.leave([]step{s}, l.o.budget)
			return l.fetch(ctx)
		}
		plan := planCut(l.o.seed, n)
		if s.plant != "" {
			plan.op, plan.answered, plan.eager = plants[s.plant].op, true, false
		}
		if n == l.o.cuts {
			plan.op = ""
		}
		cut, err := l.runToCut(ctx, fmt.Sprintf("%s-%d", s.name, n), plan, &res)
		switch {
		case err != nil:
			return errors.Join(err, l.fetch(ctx))
		case cut != "":
			n++
			fmt.Printf("%-20s cut %d of %d, %s\n", "", n, l.o.cuts, cut)
			res.passed = append(res.passed, cut)
		case res.status == "" && !l.o.over(): // the lab's own death, which is a power cut as well
			if died++; died > l.o.retries {
				return fmt.Errorf("the lab died %d times by itself; its console is in %s", died, l.o.out)
			}
			r.again()
		}
	}
	res.took = time.Since(began)
	if s.plant != "" {
		res.expectFailure(n)
	} else if n < l.o.cuts {
		res.failed = append(res.failed, fmt.Sprintf("after %d of %d cuts", n, l.o.cuts))
	} else if err := l.checkDisk(ctx); err != nil {
		res.failed = append(res.failed, err.Error())
	}
	r.add(res)
	return l.fetch(ctx)
}

// checkDisk has the file system's own program say that the lab's root is whole: that
// nothing was lost that the drive had promised to keep.
func (l *lab) checkDisk(ctx context.Context) error {
	err := tool(ctx, l.dir, "sh", "-c", `e2fsck -fp "$1" >e2fsck.log 2>&1 || [ $? = 1 ] || { cat e2fsck.log >&2; exit 1; }`, "sh", l.disk())
	if err != nil {
		return fmt.Errorf("the lab's own root disk is damaged: %w", err)
	}
	return nil
}

// runToCut boots the lab for one operation and cuts the power as planned. It returns what it
// cut, or "" when the job came to an end or the lab to its own.
func (l *lab) runToCut(ctx context.Context, name string, plan cutPlan, res *result) (cut string, err error) {
	timed, cancel := l.o.within(ctx)
	defer cancel()
	log, err := os.Create(filepath.Join(l.o.out, name+".log"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	socket := filepath.Join(l.dir, "root.sock")
	drive, err := plugIn(l.disk(), socket)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, drive.file.Close()) }()
	m, err := l.bootFrom(timed, plan.job(), "console-"+name+".log", "nbd:unix:"+socket, drive)
	if err != nil {
		return "", errors.Join(err, drive.pull())
	}
	at, err := m.follow(plan, log, res)
	if err != nil {
		return "", errors.Join(err, m.cut())
	}
	if at != "" {
		err = m.cut()
	} else {
		err = l.ended(ctx, timed, m.end())
	}
	if err != nil {
		return "", err
	}
	lost, err := drive.cutPower(plan.rnd, plan.kept)
	if at != "" {
		at = fmt.Sprintf("%s; of %d sectors unflushed %d lost, after %d writes and %d flushes", at, lost.sectors, lost.lost, drive.counts.writes, drive.counts.flushes)
	}
	return at, err
}

// ended is what a lab's end by itself amounts to: an error only if it was too slow,
// or nobody wants it any more.
func (l *lab) ended(ctx, timed context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if timed.Err() != nil && !l.o.over() {
		return fmt.Errorf("the lab didn't end within %v: %w", l.o.deadline, err)
	}
	return nil
}

// follow reads what the job says until the moment that was planned, and returns it, or ""
// at the job's end.
func (m *machine) follow(plan cutPlan, log *os.File, res *result) (at string, err error) {
	var due <-chan time.Time
	var after time.Duration
	answered := "in"
	in := func(span time.Duration) {
		after = time.Duration(plan.moment * float64(span)).Round(time.Millisecond)
		due = time.After(after)
	}
	for {
		select {
		case <-due:
			return fmt.Sprintf("%s %v %s", plan.op, after, answered), nil
		case line, more := <-m.lines:
			if !more {
				return "", nil
			}
			if _, err := fmt.Fprintln(log, line); err != nil {
				return "", err
			}
			switch word := append(strings.Fields(line), "", "", ""); word[0] {
			case "LAB-BEGIN": // LAB-BEGIN OPERATION MILLISECONDS: it begins, and took so long before
				if ms, _ := strconv.Atoi(word[2]); !plan.answered {
					in(time.Duration(ms) * time.Millisecond) // 0 is a moment as good as others
				}
			case "LAB-END": // it is acknowledged, whether that is too late or not
				answered = "after its answer"
				in(time.Second)
			case "LAB-DONE":
				res.status = word[2]
			default:
				res.read(line)
			}
		}
	}
}

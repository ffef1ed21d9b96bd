// Command lab runs what this host can't in a Debian of its own: a virtual
// machine by QEMU's emulation, whose processor offers virtualization (AMD SVM),
// so that KVM, device-mapper, loop devices, a firewall and systemd are there to
// be used, broken and powered off. It owns that machine, what is copied into it
// and the report of what ran; the tests themselves are the tree's.
//
// Figures from it say nothing about hardware.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"
)

type options struct {
	suite, mirror string
	memory        int // MiB
	only, skip    *regexp.Regexp
	instead
	kills, labs int
	cutOptions
	retries int
	bounds
	cache, out string
}

// instead is what may be done instead of running steps.
type instead struct{ shell, list, image bool }

// cutOptions are of the power cuts: how many, those of which seed, and how many of
// them were done by a run before this one.
type cutOptions struct {
	cuts, done int
	seed       uint64
}

// bounds are how long what may last.
type bounds struct {
	deadline time.Duration // one boot
	budget   time.Duration // all of them; 0: as long as they take
	spent    time.Time     // when the budget is; zero: never
}

func main() {
	o, err := parse()
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func parse() (options, error) {
	o := options{suite: os.Getenv("LAB_SUITE"), mirror: os.Getenv("LAB_MIRROR")}
	if o.suite == "" {
		o.suite = "bookworm"
	}
	var only, skip string
	flag.StringVar(&only, "only", "", "run the steps whose name matches this expression")
	flag.StringVar(&skip, "skip", "", "leave out the steps whose name matches this expression, and say so")
	flag.BoolVar(&o.list, "list", false, "print the steps, those left out unless asked for too, and end")
	flag.BoolVar(&o.shell, "shell", false, "give a root shell in the lab instead of running anything")
	flag.BoolVar(&o.image, "image", false, "make the lab's Debian, which is made once, and end")
	flag.IntVar(&o.memory, "memory", 6144, "MiB of memory for the lab")
	flag.IntVar(&o.kills, "kills", 20, "how often the storm kills a process")
	flag.IntVar(&o.cuts, "cuts", 3, "how often the power is cut")
	flag.IntVar(&o.done, "done", 0, "how many of the seed's power cuts an earlier run did: go on with the next one")
	flag.IntVar(&o.labs, "labs", 1, "how many labs share the steps, each with a processor and memory of its own")
	flag.Uint64Var(&o.seed, "seed", 0, "replay the power cuts of this seed; 0: a new one")
	flag.IntVar(&o.retries, "retries", 2, "how often a lab whose own kernel died is booted again, with the steps that didn't end")
	flag.DurationVar(&o.deadline, "deadline", 20*time.Minute, "how long one boot of the lab may last")
	flag.DurationVar(&o.budget, "budget", 0, "how long all of it may last: what hasn't ended by then is reported as not run, and has failed nothing")
	flag.StringVar(&o.out, "out", "bin/lab", "where logs and results go")
	flag.Parse()
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return o, err
	}
	o.cache = filepath.Join(cache, "banger-lab")
	if o.only, err = regexp.Compile(only); err != nil {
		return o, err
	}
	if skip == "" {
		skip = "^$"
	}
	o.skip, err = regexp.Compile(skip)
	return o, err
}

func run(ctx context.Context, o options) error {
	steps, left := choose(o)
	if o.list {
		for _, s := range steps {
			fmt.Printf("%-20s %s\n", s.name, s.what)
		}
		for _, s := range left {
			fmt.Printf("%-20s %s (not run: %s)\n", s.name, s.what, s.without)
		}
		return nil
	}
	if err := os.MkdirAll(o.cache, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(o.out); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	base, err := baseImage(ctx, o)
	if err != nil {
		return fmt.Errorf("make the lab's image: %w", err)
	}
	if o.image {
		return nil
	}
	if o.shell {
		return inLab(o, base, func(l *lab) error {
			if err := l.prepare(ctx, steps); err != nil {
				return fmt.Errorf("make what goes into the lab: %w", err)
			}
			return l.shell(ctx)
		})
	}
	r := &report{left: left}
	if o.budget > 0 {
		o.spent = time.Now().Add(o.budget)
	}
	parts := share(steps, o.labs)
	ends := make(chan error)
	for i, part := range parts {
		o := o
		if len(parts) > 1 {
			o.out = filepath.Join(o.out, strconv.Itoa(i+1))
		}
		go func() { ends <- inLab(o, base, func(l *lab) error { return l.run(ctx, part, r) }) }()
	}
	for range parts { // each to its end, whatever becomes of the others
		err = errors.Join(err, <-ends)
	}
	return errors.Join(err, r.print())
}

// over reports whether the budget is spent.
func (o bounds) over() bool { return !o.spent.IsZero() && time.Now().After(o.spent) }

// within bounds one boot.
func (o bounds) within(ctx context.Context) (context.Context, context.CancelFunc) {
	end := time.Now().Add(o.deadline)
	if !o.spent.IsZero() && o.spent.Before(end) {
		end = o.spent
	}
	return context.WithDeadline(ctx, end)
}

// inLab has do use a lab of its own, whose disks go when it is done.
func inLab(o options, base string, do func(*lab) error) error {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.cache, "run-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	return do(&lab{o: o, base: base, dir: dir})
}

// run runs steps; the power cuts, which are several boots, after the others.
func (l *lab) run(ctx context.Context, steps []step, r *report) error {
	others := slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.cuts })
	if len(others) > 0 {
		if err := l.prepare(ctx, others); err != nil {
			return fmt.Errorf("make what goes into the lab: %w", err)
		}
		if err := l.runSteps(ctx, others, r); err != nil {
			return err
		}
	}
	for _, s := range steps {
		if s.cuts {
			if err := l.powerCuts(ctx, s, r); err != nil {
				return err
			}
		}
	}
	return nil
}

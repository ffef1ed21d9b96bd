package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"banger"
	"banger/daemon/sqlite"
)

// scale compares a daemon of 10 VMs with one of 1,000, as a host's crash leaves
// them: of each hundred, 90 are stopped, 9 were running and one was being made.
// It measures the first command, which starts the daemon and so waits for
// recovery, and the list after that.
//
// The daemons have directories of their own. The records are the store's, not
// made one by one: what takes a while to make isn't what is measured.
func (b *bench) scale(ctx context.Context) error {
	spec, err := b.sample(ctx)
	if err != nil {
		return err
	}
	first, list := map[int][]time.Duration{}, map[int][]time.Duration{}
	for range b.n {
		for _, n := range []int{10, 1000} {
			f, l, err := b.crowd(ctx, spec, n)
			if err != nil {
				return fmt.Errorf("%d VMs: %w", n, err)
			}
			first[n], list[n] = append(first[n], f), append(list[n], l)
		}
	}
	for _, m := range []struct {
		what string
		took map[int][]time.Duration
	}{{"daemon's start and recovery", first}, {"vm list", list}} {
		print(m.what+", 10 VMs", m.took[10])
		print(m.what+", 1,000 VMs", m.took[1000])
		ten, thousand := median(m.took[10]), median(m.took[1000])
		fmt.Printf("ratio of medians: %.2f; each further VM costs %v\n", float64(thousand)/float64(ten), ((thousand - ten) / 990).Round(time.Microsecond))
	}
	return nil
}

// sample is a record as this installation makes it, without its VM.
func (b *bench) sample(ctx context.Context) (vm banger.VM, err error) {
	if vm, err = b.client.VMs().CreateVM(ctx, banger.Spec{}, false, nil); err != nil {
		return vm, err
	}
	return vm, b.client.VMs().DeleteVM(ctx, vm.ID)
}

// crowd starts a daemon that finds n VMs, and lists them.
func (b *bench) crowd(ctx context.Context, like banger.VM, n int) (first, list time.Duration, err error) {
	dir, err := os.MkdirTemp("", "banger-bench")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := b.fill(ctx, filepath.Join(dir, "banger"), like, n); err != nil {
		return 0, 0, err
	}
	// The half-made ones are to be gone when the first answer comes.
	lines := 1 + n - (n+98)/100
	timed := func(args ...string) (time.Duration, error) {
		cmd := exec.Command(b.banger, args...)
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("banger %v: %w: %s", args, err, out)
		}
		took := time.Since(start)
		if got := bytes.Count(out, []byte{'\n'}); args[0] == "vm" && got != lines {
			return 0, fmt.Errorf("the list has %d lines, want %d", got, lines)
		}
		return took, nil
	}
	defer func() {
		_, serr := timed("daemon", "stop")
		err = errors.Join(err, serr)
	}()
	if first, err = timed("vm", "list"); err != nil {
		return 0, 0, err
	}
	list, err = timed("vm", "list")
	return first, list, err
}

// fill writes the records of n VMs, and what they refer to, into a new database.
func (b *bench) fill(ctx context.Context, state string, like banger.VM, n int) (err error) {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	store, err := sqlite.Open(ctx, filepath.Join(state, "banger.db"), sqlite.Unsafe)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	images, err := b.client.Images().Images(ctx)
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := store.PutImage(ctx, image, true); err != nil {
			return err
		}
	}
	kernels, err := b.client.Kernels().Kernels(ctx)
	if err != nil {
		return err
	}
	for _, kernel := range kernels {
		if err := store.PutKernel(ctx, kernel); err != nil {
			return err
		}
	}
	for i := range n {
		vm := like
		vm.ID, vm.Spec.Name = fmt.Sprintf("%012x", i), fmt.Sprintf("vm-%d", i)
		vm.State, vm.Created = banger.Stopped, like.Created.Add(time.Duration(i))
		var plan *banger.Plan
		switch {
		case i%100 == 1:
			vm.State = banger.Creating
			plan = &banger.Plan{ID: vm.ID, Subjects: []string{vm.ID}, Kind: banger.PlanCreate, Direction: banger.Back, Begun: []string{"directory", "disk"}, Opened: vm.Created}
		case i%10 == 0 && i > 0 && i%100 != 0 || i == 9:
			vm.State, vm.Boots, vm.Started = banger.Running, 1, vm.Created
		}
		if err := store.Commit(ctx, []banger.VM{vm}, plan, false); err != nil {
			return err
		}
	}
	return nil
}

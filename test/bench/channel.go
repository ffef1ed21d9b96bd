package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger"
	"banger/guest"
	"banger/test/bench/bare"
)

const (
	bulkSize   = 64 << 20 // dd's 1024 blocks of 64 KiB below: cat and head differ between images
	keystrokes = 200
	// typing is the pause between two keystrokes: nobody types into a machine that is
	// still busy with the last one.
	typing = 2 * time.Millisecond
)

// channels compares what goes through a real guest's channel, by a command's stdin and
// stdout, with a bare reader and writer on the same device, alone and with a command of its
// own at the end of a pipe, in turn; and a keystroke's echo in a terminal on an idle channel
// with one beside bulk.
type channels struct {
	*bench
	floor  *floor
	client *guest.Client
}

func (c *channels) run(ctx context.Context) error {
	vms := c.bench.client.VMs()
	vm, err := vms.CreateVM(ctx, banger.Spec{Name: "bench-channel", Image: c.image, Hypervisor: c.chosen, Cold: true}, true, nil)
	if err != nil {
		return err
	}
	defer func() { _ = vms.DeleteVM(ctx, vm.ID) }()
	c.client = &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return vms.Dial(ctx, vm.ID) }}
	if err := settle(ctx, c.client); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.vmDir(vm.ID), "v.sock")); err == nil {
		c.floor, err = putBare(ctx, c.client, c.vmDir(vm.ID))
		if err != nil {
			return err
		}
		defer c.floor.Close()
	} else {
		end, err := c.boot(ctx)
		if err != nil {
			return err
		}
		defer end()
	}
	if err := c.throughput(ctx); err != nil {
		return err
	}
	return c.keystroke(ctx)
}

// boot boots a bare guest in the directory, and by the command line, of a VM.
func (c *channels) boot(ctx context.Context) (end func(), err error) {
	vms := c.bench.client.VMs()
	vm, err := vms.CreateVM(ctx, banger.Spec{Name: "bench-bare", Image: c.image, Hypervisor: qemu, Net: banger.NetNone, Cold: true}, true, nil)
	if err != nil {
		return nil, err
	}
	remove := func() { _ = vms.DeleteVM(ctx, vm.ID) }
	argv, err := c.argv(vm.ID)
	if err == nil {
		_, err = vms.StopVM(ctx, vm.ID, banger.StopOptions{Force: true})
	}
	if err == nil {
		c.floor, err = startBare(argv, filepath.Join(c.dirs.Data, "kernels", vm.KernelID), c.vmDir(vm.ID))
	}
	if err != nil {
		remove()
		return nil, err
	}
	return func() { c.floor.Close(); remove() }, nil
}

// settle waits for the guest's init: what it is still starting would be measured too.
func settle(ctx context.Context, client *guest.Client) error {
	for {
		h, err := client.Health(ctx)
		if err != nil || !slices.Contains([]string{"", "initializing", "starting"}, h.Init) {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func (c *channels) throughput(ctx context.Context) error {
	pipe := guest.ExecSpec{Argv: []string{"sh", "-c", "dd if=/dev/zero bs=64k count=1024 2>/dev/null | dd bs=64k of=/dev/null 2>/dev/null"}}
	sink := guest.ExecSpec{Argv: []string{"sh", "-c", "exec dd bs=64k >/dev/null 2>&1"}, Stdin: true}
	source := guest.ExecSpec{Argv: []string{"sh", "-c", "exec dd if=/dev/zero bs=64k count=1024 2>/dev/null"}}
	ways := []struct {
		what string
		run  func() (time.Duration, error)
		took []time.Duration
	}{
		{what: "into a bare reader", run: func() (time.Duration, error) { return c.floor.reads(bare.Reads, bulkSize) }},
		{what: "through a bare reader into a command", run: func() (time.Duration, error) { return c.floor.reads(bare.Feeds, bulkSize) }},
		{what: "into a command's stdin", run: func() (time.Duration, error) {
			return timed(ctx, c.client, sink, guest.IO{Stdin: io.LimitReader(zeros{}, bulkSize)})
		}},
		{what: "from a bare writer", run: func() (time.Duration, error) { return c.floor.writes(bare.Writes, bulkSize) }},
		{what: "from a command through a bare writer", run: func() (time.Duration, error) { return c.floor.writes(bare.Passes, bulkSize) }},
		{what: "from a command's stdout", run: func() (time.Duration, error) {
			var n counter
			d, err := timed(ctx, c.client, source, guest.IO{Stdout: &n})
			if err == nil && n != bulkSize {
				err = fmt.Errorf("%d bytes came", n)
			}
			return d, err
		}},
		{what: "through a pipe of two commands there", run: func() (time.Duration, error) { return timed(ctx, c.client, pipe, guest.IO{}) }},
	}
	for range c.n {
		for i := range ways {
			d, err := ways[i].run()
			if err != nil {
				return fmt.Errorf("64 MiB %s: %w", ways[i].what, err)
			}
			ways[i].took = append(ways[i].took, d)
		}
	}
	for _, w := range ways {
		print("64 MiB "+w.what, w.took)
	}
	rate := func(of, to int) float64 { return float64(median(ways[of].took)) / float64(median(ways[to].took)) }
	fmt.Printf("of the bare one's rate: stdin %.2f, stdout %.2f (bound 0.7)\n", rate(0, 2), rate(3, 5))
	at, through := median(ways[0].took), median(ways[6].took)
	fmt.Printf("of it on one processor at most, as the pipe takes its time: stdin %.2f, stdout %.2f\n",
		float64(at)/float64(at+through), float64(median(ways[3].took))/float64(median(ways[3].took)+through))
	fmt.Printf("of the bare one's with a command: stdin %.2f, stdout %.2f\n", rate(1, 2), rate(4, 5))
	return nil
}

func timed(ctx context.Context, client *guest.Client, spec guest.ExecSpec, near guest.IO) (time.Duration, error) {
	start := time.Now()
	status, err := client.Exec(ctx, spec, near)
	if err == nil && status.Code != 0 {
		err = fmt.Errorf("%q: %+v", spec.Argv, status)
	}
	return time.Since(start), err
}

type counter int

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// keystroke types into a terminal, while nothing else goes on, and beside bulk of
// another command each way.
func (c *channels) keystroke(ctx context.Context) error {
	echoes, err := c.floor.echoes(keystrokes)
	if err != nil {
		return err
	}
	print("a byte's echo by the bare guest", echoes)
	ctx, cancel := context.WithCancel(ctx)
	keys, stdin := io.Pipe()
	stdout, screen := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := c.client.Exec(ctx, guest.ExecSpec{Argv: []string{"cat"}, Stdin: true, TTY: &guest.WinSize{Rows: 24, Cols: 80}}, guest.IO{Stdin: keys, Stdout: screen})
		_ = screen.CloseWithError(fmt.Errorf("the terminal's command ended: %w", err))
	}()
	defer func() { cancel(); _, _ = stdin.Close(), stdout.Close(); <-ended }()
	if _, err := strokes(20, stdin, stdout); err != nil { // it is up
		return err
	}
	var idle time.Duration
	for _, beside := range []struct {
		what string
		argv []string
		up   bool
	}{
		{what: "a keystroke's echo on an idle channel"},
		{"beside bulk from the guest", []string{"cat", "/dev/zero"}, false},
		{"beside bulk to the guest", []string{"sh", "-c", "exec cat >/dev/null"}, true},
		{what: "on an idle channel again"},
	} {
		stop := func() {}
		if beside.argv != nil {
			stop = bulk(ctx, c.client, beside.argv, beside.up)
		}
		took, err := strokes(keystrokes, stdin, stdout)
		stop()
		if err != nil {
			return err
		}
		print(beside.what, took)
		if idle == 0 {
			idle = median(took)
		} else {
			fmt.Printf("%44s %.2f (bound 2)\n", "over the idle channel's:", float64(median(took))/float64(idle))
		}
	}
	return nil
}

// bulk keeps a command's stream full until it is stopped.
func bulk(ctx context.Context, client *guest.Client, argv []string, up bool) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan string, 1)
	var moved counter
	near := guest.IO{Stdout: &moved, Signals: signals}
	if up {
		near.Stdin = zeros{}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = client.Exec(ctx, guest.ExecSpec{Argv: argv, Stdin: up}, near) // it is killed
	}()
	time.Sleep(time.Second) // it flows
	return func() {
		signals <- "KILL"
		select {
		case <-done:
		case <-time.After(10 * time.Second):
		}
		cancel()
		<-done
	}
}

// strokes sends n bytes, one when the last has come back, and says how long each took.
func strokes(n int, to io.Writer, from io.Reader) ([]time.Duration, error) {
	var took []time.Duration
	one := []byte{'k'}
	for range n {
		time.Sleep(typing)
		start := time.Now()
		if _, err := to.Write(one); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(from, one); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

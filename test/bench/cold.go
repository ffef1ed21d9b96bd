package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger"
	"banger/guest"
)

// firstLine is what the agent prints on the console before anything else, as /init.
const firstLine = "banger-agent"

// cold compares `vm run` with its hypervisor alone, the same command line or
// configuration and the same files: until the agent answers, which is when -d lets
// the command end, and until the first byte of a guest's command.
func (b *bench) cold(ctx context.Context) error {
	spec := kind(b.hypervisor)
	spec.Cold, spec.Name = true, "bench-floor"
	vm, err := b.client.VMs().CreateVM(ctx, spec, true, nil)
	if err != nil {
		return err
	}
	defer func() { _ = b.client.VMs().DeleteVM(ctx, vm.ID) }()
	argv, err := b.argv(vm.ID)
	if err != nil {
		return err
	}
	plain := byHand{"plain QEMU to the first line of /init", func(context.Context) (time.Duration, error) {
		return plainQEMU(argv, b.vmDir(vm.ID))
	}}
	if b.hypervisor != qemu {
		if plain, err = plainFirecracker(argv, b.vmDir(vm.ID)); err != nil {
			return err
		}
	}
	if _, err := b.client.VMs().StopVM(ctx, vm.ID, banger.StopOptions{Force: true}); err != nil {
		return err
	}
	var ours, answered, floor []time.Duration
	stages := map[string][]time.Duration{}
	for range b.n {
		d, err := plain.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", plain.what, err)
		}
		floor = append(floor, d)
		if d, err = b.run(append(flags(b.hypervisor), "--cold")...); err != nil {
			return err
		}
		ours = append(ours, d)
		if d, err = b.answer(ctx); err != nil {
			return err
		}
		answered = append(answered, d)
		if err := b.staged(ctx, stages); err != nil {
			return err
		}
	}
	print(plain.what, floor)
	print("banger vm run -d, to the agent's answer", answered)
	print("banger vm run --rm -- echo, to its output", ours)
	over := func(of []time.Duration) float64 { return float64(median(of)) / float64(median(floor)) }
	fmt.Printf("ratios of medians: %.2f to the answer, %.2f to the output\n\nwhere create's time goes, by the daemon's own events (n=%d):\n", over(answered), over(ours), b.n)
	for _, name := range slices.Sorted(maps.Keys(stages)) {
		print("  "+name, stages[name])
	}
	return nil
}

// byHand is how a hypervisor is driven by hand, and what that measures.
type byHand struct {
	what string
	run  func(context.Context) (time.Duration, error)
}

// argv returns the VMM's command line as the VM's shim recorded it.
func (b *bench) argv(id string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(b.vmDir(id), "shim.json"))
	if err != nil {
		return nil, err
	}
	var cfg struct {
		Argv []string `json:"argv"`
	}
	return cfg.Argv, json.Unmarshal(data, &cfg)
}

// plainQEMU spawns the VMM and reads its console to the first line of /init.
func plainQEMU(argv []string, dir string) (time.Duration, error) {
	for _, sock := range []string{"console.sock", "chan.sock", "qmp.sock", "vmm.net"} {
		_ = os.Remove(filepath.Join(dir, sock)) // of the run before
	}
	start := time.Now()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	var words bytes.Buffer
	cmd.Stderr = &words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as ours has one: sched(7), "The autogroup feature"
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	console, err := listening(filepath.Join(dir, "console.sock"))
	if err != nil {
		return 0, fmt.Errorf("no console: %w: %s", err, words.String())
	}
	defer console.Close()
	_ = console.SetReadDeadline(start.Add(time.Minute))
	var seen []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(seen, []byte(firstLine)) {
		n, err := console.Read(buf)
		if err != nil {
			return 0, fmt.Errorf("console ended: %w: %q", err, seen)
		}
		seen = append(seen, buf[:n]...)
	}
	return time.Since(start), nil
}

// run is the whole command, from its start to the first byte of the guest's output.
func (b *bench) run(flags ...string) (time.Duration, error) {
	start := time.Now()
	cmd := exec.Command(b.banger, slices.Concat([]string{"vm", "run", "--rm", "-q"}, flags, []string{"--", "echo", "up"})...)
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	one := make([]byte, 1)
	_, err = io.ReadFull(out, one)
	took := time.Since(start)
	_, _ = io.Copy(io.Discard, out)
	if werr := cmd.Wait(); err != nil || werr != nil {
		return 0, fmt.Errorf("vm run: %v, %v: %s", err, werr, words.String())
	}
	return took, nil
}

// answer is the whole command from its start to its end, where it ends as soon as
// the guest's agent has answered. The VM is deleted afterwards.
func (b *bench) answer(ctx context.Context) (time.Duration, error) {
	const name = "bench-answer"
	start := time.Now()
	cmd := exec.Command(b.banger, slices.Concat([]string{"vm", "run", "-d", "-q", "--cold", "--name", name}, flags(b.hypervisor))...)
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("vm run -d: %w: %s", err, out)
	}
	return took, b.client.VMs().DeleteVM(ctx, name)
}

// staged does what the command does with the client library, noting the time
// between the daemon's events, then the first command's, and that of a process
// of the command line that does nothing.
func (b *bench) staged(ctx context.Context, stages map[string][]time.Duration) error {
	last := time.Now()
	if out, err := exec.Command(b.banger, "version").CombinedOutput(); err != nil {
		return fmt.Errorf("version: %w: %s", err, out)
	}
	stages["00 a process of the command line"] = append(stages["00 a process of the command line"], time.Since(last))
	begun := time.Now()
	n, name := 0, ""
	last = begun
	spec := kind(b.hypervisor)
	spec.Cold = true
	vm, err := b.client.VMs().CreateVM(ctx, spec, true, func(e banger.Event) {
		if name != "" {
			stages[name] = append(stages[name], e.Time.Sub(last))
		}
		n++
		name, last = fmt.Sprintf("%02d %s %s", n, e.Stage, e.Message), e.Time
	})
	if err != nil {
		return err
	}
	answered := time.Now()
	stages[name] = append(stages[name], answered.Sub(last))
	first, err := b.firstOutput(ctx, vm.ID)
	if err != nil {
		return err
	}
	stages["20 the first command, to its output"] = append(stages["20 the first command, to its output"], first.Sub(answered))
	stages["30 all of it"] = append(stages["30 all of it"], first.Sub(begun))
	if err := b.inside(ctx, vm.ID, stages); err != nil {
		return err
	}
	return b.client.VMs().DeleteVM(ctx, vm.ID)
}

// firstOutput runs echo in the guest and returns when its first byte came.
func (b *bench) firstOutput(ctx context.Context, id string) (time.Time, error) {
	var out stamped
	client := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return b.client.VMs().Dial(ctx, id) }}
	status, err := client.Exec(ctx, guest.ExecSpec{ID: guest.NewID(), Argv: []string{"echo", "up"}}, guest.IO{Stdout: &out})
	if err == nil && (status.Code != 0 || out.first.IsZero()) {
		err = fmt.Errorf("echo: %+v, no output", status)
	}
	return out.first, err
}

// stamped notes when it was written to first.
type stamped struct{ first time.Time }

func (s *stamped) Write(p []byte) (int, error) {
	if s.first.IsZero() {
		s.first = time.Now()
	}
	return len(p), nil
}

// inside adds where the guest's share went, by its agent's own clock. Asking a
// configured guest for its configuration again repeats the first answer.
func (b *bench) inside(ctx context.Context, id string, stages map[string][]time.Duration) error {
	client := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return b.client.VMs().Dial(ctx, id) }}
	ready, err := client.Configure(ctx, guest.Identity{ID: id})
	if err != nil {
		return err
	}
	for i, s := range ready.Stages {
		if i == 0 {
			stages["05 in the guest: the kernel"] = append(stages["05 in the guest: the kernel"], time.Duration(s.AtUS)*time.Microsecond)
		}
		name := fmt.Sprintf("%02d in the guest: %s", 6+i, s.Name)
		stages[name] = append(stages[name], time.Duration(s.TookUS)*time.Microsecond)
	}
	return nil
}

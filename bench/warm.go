package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger"
	"banger/api"
	"banger/guest"
	"banger/link"
)

// warm compares `vm run --rm -- echo`, restored from a template, to its first
// byte with the floor: plain QEMU that restores the very same template on a disk
// and an image just like it, told by nothing but this program to become a VM and
// to run the same command. So floor and banger have the same guest, and the same
// work in it; what is between them is all that banger is on the host.
func (b *bench) warm(ctx context.Context) error {
	if _, err := (api.Templates{Client: b.client}).CreateTemplate(ctx, banger.TemplateSpec{}, nil); err != nil {
		return err
	}
	like, err := b.client.CreateVM(ctx, banger.Spec{Name: "bench-floor", Hypervisor: driven}, true, nil)
	if err != nil {
		return err
	}
	defer func() { _ = b.client.DeleteVM(ctx, like.ID) }()
	if like.Launch == nil || like.Launch.Template == "" {
		return fmt.Errorf("it was not restored: %+v", like.Launch)
	}
	argv, err := b.argv(like.ID)
	if err != nil {
		return err
	}
	if _, err := b.client.StopVM(ctx, like.ID, banger.StopOptions{Force: true}); err != nil {
		return err
	}
	kernel, err := b.kernelVersion(ctx, like.KernelID)
	if err != nil {
		return err
	}
	var ours, floor, cold []time.Duration
	var stages, floorStages timings
	for i := range b.n {
		t, err := b.restorePlain(ctx, like, argv, kernel)
		if err != nil {
			return fmt.Errorf("plain QEMU: %w", err)
		}
		floor = append(floor, t.total())
		floorStages.add(t)
		d, err := b.run()
		if err != nil {
			return err
		}
		ours = append(ours, d)
		if i%3 == 0 { // for comparison only, and long
			if d, err = b.run("--cold"); err != nil {
				return err
			}
			cold = append(cold, d)
		}
		if err := b.launched(ctx, &stages); err != nil {
			return err
		}
	}
	print("plain QEMU restoring the same, to the output", floor)
	print("banger vm run --rm -- echo, to its output", ours)
	print("the same with --cold", cold)
	fmt.Printf("ratio of medians: %.2f; cold over warm: %.1f\n", float64(median(ours))/float64(median(floor)), float64(median(cold))/float64(median(ours)))
	fmt.Println("\nwhere plain QEMU's time goes:")
	floorStages.print()
	fmt.Println("\nwhere create's time goes, as vm show tells it:")
	stages.print()
	return nil
}

// launched creates a VM and notes its stages.
func (b *bench) launched(ctx context.Context, t *timings) error {
	vm, err := b.client.CreateVM(ctx, banger.Spec{Hypervisor: driven}, true, nil)
	if err != nil {
		return err
	}
	if vm.Launch == nil || vm.Launch.Template == "" {
		return fmt.Errorf("it was not restored: %+v", vm.Launch)
	}
	answered := time.Now()
	first, err := b.firstOutput(ctx, vm.ID)
	if err != nil {
		return err
	}
	t.add(vm.Launch.Stages)
	t.add([]banger.Stage{{Name: "the first command, to its output", Took: first.Sub(answered)}})
	return b.client.DeleteVM(ctx, vm.ID)
}

func (b *bench) kernelVersion(ctx context.Context, id string) (string, error) {
	kernels, err := b.client.Kernels(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(kernels, func(k banger.Kernel) bool { return k.ID == id })
	if i < 0 {
		return "", fmt.Errorf("the kernel %s is gone", id)
	}
	return kernels[i].Version, nil
}

// restorePlain restores the template on a new disk by a QEMU that nothing but
// this function speaks to.
func (b *bench) restorePlain(ctx context.Context, like banger.VM, argv []string, kernel string) (t laps, err error) {
	// Its disk is as new as ours will be, made before the clock starts.
	vm, err := b.client.CreateVM(ctx, banger.Spec{Hypervisor: driven}, false, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.client.DeleteVM(ctx, vm.ID) }()
	argv = slices.Clone(argv)
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], like.ID, vm.ID)
	}
	dir := b.vmDir(vm.ID)
	state, err := os.Open(filepath.Join(b.dirs.Cache, "templates", like.Launch.Template, "state"))
	if err != nil {
		return nil, err
	}
	defer state.Close()
	id := plainIdentity(vm, kernel)

	watch := newStopwatch()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	// As ours has one: on a busy host a session gets a share of the CPUs, not a
	// process (sched(7), "The autogroup feature").
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	q, err := dialMonitor(filepath.Join(dir, "qmp.sock"))
	if err != nil {
		return nil, err
	}
	defer q.conn.Close()
	watch.lap("QEMU's start")
	channel, err := net.Dial("unix", filepath.Join(dir, "chan.sock"))
	if err != nil {
		return nil, err
	}
	defer channel.Close()
	if err := q.restore(state); err != nil {
		return nil, err
	}
	watch.lap("its state loaded")
	mux := link.New(channel, link.Host)
	defer func() { _ = mux.Close() }()
	client := guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return mux.Open(ctx) }}
	if _, err := client.Configure(ctx, id); err != nil {
		return nil, err
	}
	watch.lap("a mounted root, everything renewed")
	status, err := client.Exec(ctx, guest.ExecSpec{ID: guest.NewID(), Argv: []string{"echo", "up"}}, guest.IO{Stdout: watch})
	if err != nil || status.Code != 0 {
		return nil, fmt.Errorf("echo: %+v, %w", status, err)
	}
	return watch.laps, nil
}

// plainIdentity makes a guest a machine that is none of banger's.
func plainIdentity(vm banger.VM, kernel string) guest.Identity {
	seed := make([]byte, 64)
	_, _ = rand.Read(seed) // never fails (crypto/rand)
	return guest.Identity{
		ID: vm.ID, Hostname: "floor", MachineID: hex.EncodeToString(seed[:16]), Entropy: seed, KernelVersion: kernel,
		Net:    &guest.NetIdentity{MAC: "02:00:00:00:00:02", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: "10.0.2.3"},
		Drives: guest.DriveSerials{Image: "image", Modules: "modules", Disk: "disk"},
	}
}

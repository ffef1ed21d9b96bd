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
	"banger/guest"
	"banger/guest/link"
)

// warm compares `vm run --rm -- echo`, restored from a template, to its first
// byte with the floor: a plain hypervisor that restores the very same template on a
// disk and an image just like it, told by nothing but this program to become a VM
// and to run the same command. So floor and banger have the same guest, and the same
// work in it; what is between them is all that banger is on the host.
func (b *bench) warm(ctx context.Context) error {
	if _, err := b.client.Templates().CreateTemplate(ctx, banger.TemplateSpec{Hypervisor: b.hypervisor, Net: kind(b.hypervisor).Net}, nil); err != nil {
		return err
	}
	return b.restored(ctx, "")
}

// fork is what is restored, by banger and by a plain hypervisor.
type fork struct {
	image  string            // its name: from the image template; empty: the default one, from a template
	like   banger.VM         // stopped, but for its number what each of them is
	argv   []string          // the VMM's, for like
	drives map[string]string // Firecracker's names of them, and their paths
	kernel string            // its version
	dir    string            // the template's
}

// of is one of like's arguments or paths for another VM.
func (f fork) of(vm banger.VM, s string) string { return strings.ReplaceAll(s, f.like.ID, vm.ID) }

// told is what the guest has done when it has its identity.
func (f fork) told() string {
	if f.image != "" {
		return "everything renewed"
	}
	return "a mounted root, everything renewed"
}

// plains are the floors.
var plains = map[string]string{qemu: "plain QEMU", "firecracker": "plain Firecracker"}

// restored measures both, interleaved.
func (b *bench) restored(ctx context.Context, image string) error {
	f, err := b.fork(ctx, image)
	if err != nil {
		return err
	}
	defer func() { _ = b.client.VMs().DeleteVM(ctx, f.like.ID) }()
	plain, these := plains[b.hypervisor], flags(b.hypervisor)
	if image != "" {
		these = append(these, "--image", image)
	}
	var ours, floor, cold []time.Duration
	var stages, floorStages timings
	for i := range b.n {
		t, err := b.restorePlain(ctx, f)
		if err != nil {
			return fmt.Errorf("%s: %w", plain, err)
		}
		floor = append(floor, t.total())
		floorStages.add(t)
		d, err := b.run(these...)
		if err != nil {
			return err
		}
		ours = append(ours, d)
		if i%3 == 0 { // for comparison only, and long
			if d, err = b.run(append(these, "--cold")...); err != nil {
				return err
			}
			cold = append(cold, d)
		}
		if err := b.launched(ctx, f, &stages); err != nil {
			return err
		}
	}
	print(plain+" restoring the same, to the output", floor)
	print("banger vm run --rm -- echo, to its output", ours)
	print("the same with --cold", cold)
	fmt.Printf("ratio of medians: %.2f; cold over warm: %.1f\n", float64(median(ours))/float64(median(floor)), float64(median(cold))/float64(median(ours)))
	fmt.Printf("\nwhere %s's time goes:\n", plain)
	floorStages.print()
	fmt.Println("\nwhere create's time goes, as vm show tells it:")
	stages.print()
	return nil
}

// fork has a VM restored and learns of it what a plain hypervisor must be told.
func (b *bench) fork(ctx context.Context, image string) (f fork, err error) {
	f.image = image
	spec := kind(b.hypervisor)
	spec.Name, spec.Image = "bench-floor", image
	f.like, err = b.client.VMs().CreateVM(ctx, spec, true, nil)
	if err != nil {
		return f, err
	}
	defer func() {
		if err != nil {
			_ = b.client.VMs().DeleteVM(ctx, f.like.ID)
		}
	}()
	if err := b.restoredFrom(f.like, image); err != nil {
		return f, err
	}
	if f.argv, err = b.argv(f.like.ID); err != nil {
		return f, err
	}
	if b.hypervisor != qemu {
		if f.drives, err = drives(b.vmDir(f.like.ID)); err != nil {
			return f, err
		}
	}
	if _, err = b.client.VMs().StopVM(ctx, f.like.ID, banger.StopOptions{Force: true}); err != nil {
		return f, err
	}
	f.kernel, err = b.kernelVersion(ctx, f.like.KernelID)
	f.dir = filepath.Join(b.dirs.Cache, "templates", f.like.Launch.Template)
	return f, err
}

// restoredFrom reports as an error that a VM didn't come from a template of the
// sort that is measured: an image template has its disk, another has none.
func (b *bench) restoredFrom(vm banger.VM, image string) error {
	if vm.Launch == nil || vm.Launch.Template == "" {
		return fmt.Errorf("it was not restored: %+v", vm.Launch)
	}
	_, err := os.Stat(filepath.Join(b.dirs.Cache, "templates", vm.Launch.Template, templateDisk))
	if (err == nil) != (image != "") {
		return fmt.Errorf("it was restored from %s, another sort of template: banger template list", vm.Launch.Template)
	}
	return nil
}

// launched creates a VM and notes its stages.
func (b *bench) launched(ctx context.Context, f fork, t *timings) error {
	spec := kind(b.hypervisor)
	spec.Image = f.image
	vm, err := b.client.VMs().CreateVM(ctx, spec, true, nil)
	if err != nil {
		return err
	}
	if err := b.restoredFrom(vm, f.image); err != nil {
		return err
	}
	answered := time.Now()
	first, err := b.firstOutput(ctx, vm.ID)
	if err != nil {
		return err
	}
	t.add(append(launched(vm.Launch), step{"the first command, to its output", first.Sub(answered)}))
	return b.client.VMs().DeleteVM(ctx, vm.ID)
}

func (b *bench) kernelVersion(ctx context.Context, id string) (string, error) {
	kernels, err := b.client.Kernels().Kernels(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(kernels, func(k banger.Kernel) bool { return k.ID == id })
	if i < 0 {
		return "", fmt.Errorf("the kernel %s is gone", id)
	}
	return kernels[i].Version, nil
}

// restorePlain restores the template on a new disk, or on a copy of its own, by a
// hypervisor that nothing but this program speaks to.
func (b *bench) restorePlain(ctx context.Context, f fork) (laps, error) {
	// Its disk is as new as ours will be, made before the clock starts.
	spec := kind(b.hypervisor)
	spec.Image = f.image
	vm, err := b.client.VMs().CreateVM(ctx, spec, false, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.client.VMs().DeleteVM(ctx, vm.ID) }()
	if f.image != "" {
		if err := b.copyDisk(f, vm.ID); err != nil {
			return nil, err
		}
	}
	if b.hypervisor != qemu {
		return f.restoreFirecracker(ctx, vm)
	}
	return f.restoreQEMU(ctx, vm, b.vmDir(vm.ID))
}

func (f fork) restoreQEMU(ctx context.Context, vm banger.VM, dir string) (laps, error) {
	argv := slices.Clone(f.argv)
	for i := range argv {
		argv[i] = f.of(vm, argv[i])
	}
	state, err := os.Open(filepath.Join(f.dir, "state"))
	if err != nil {
		return nil, err
	}
	defer state.Close()
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
	return f.become(ctx, vm, channel, watch)
}

// become makes the restored guest a VM and runs the command.
func (f fork) become(ctx context.Context, vm banger.VM, channel net.Conn, watch *stopwatch) (laps, error) {
	mux := link.New(channel, link.Host)
	defer func() { _ = mux.Close() }()
	client := guest.Client{Dial: func(ctx context.Context) (net.Conn, error) { return mux.Open(ctx) }}
	if _, err := client.Configure(ctx, plainIdentity(vm, f.kernel)); err != nil {
		return nil, err
	}
	watch.lap(f.told())
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
	id := guest.Identity{
		ID: vm.ID, Hostname: "floor", MachineID: hex.EncodeToString(seed[:16]), Entropy: seed, KernelVersion: kernel,
		Drives: guest.DriveSerials{Image: "image", Modules: "modules", Disk: "disk"},
	}
	if vm.Spec.Net != banger.NetNone {
		id.Net = &guest.NetIdentity{MAC: "02:00:00:00:00:02", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: "10.0.2.3"}
	}
	return id
}

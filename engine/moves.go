package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"banger"
	"banger/console"
	"banger/guest"
)

// dir is the VM's own directory. Its name is the id alone: never anything a
// user or a guest chose.
func (e *Engine) dir(id string) string { return filepath.Join(e.Dir, "vms", id) }

func (j *job) directory() move {
	dir := j.e.dir(j.vm.ID)
	return move{
		name: "directory",
		do: func(context.Context) error {
			return j.e.fs("mkdir", func() error { return os.MkdirAll(dir, 0o700) })
		},
		undo: func(context.Context) error {
			return j.e.fs("rmdir", func() error { return os.RemoveAll(dir) })
		},
	}
}

func (j *job) disk() move {
	dir := j.e.dir(j.vm.ID)
	return move{
		name: "disk",
		do: func(ctx context.Context) error {
			disks, err := j.e.Host.disk(j.vm)
			if err != nil {
				return err
			}
			if j.runs {
				if made, err := fromImage(ctx, j, dir); made || err != nil {
					return err
				}
			}
			_, err = disks.Create(ctx, dir, j.vm.Spec.DiskMiB)
			return err
		},
		undo: func(ctx context.Context) error {
			disks, err := j.e.Host.disk(j.vm)
			if err != nil {
				return err
			}
			return disks.Remove(ctx, dir)
		},
	}
}

func (j *job) vmm() move {
	return move{
		name: "vmm",
		do: func(ctx context.Context) error {
			hv, err := j.e.hypervisor(j.vm)
			if err != nil {
				return err
			}
			m, err := j.e.bootable(ctx, j.vm)
			if err != nil {
				return err
			}
			h, err := bring(ctx, j, hv, m)
			if err != nil {
				return err
			}
			j.hold(j.held().With(banger.MachineHandles, h))
			return nil
		},
		undo: func(ctx context.Context) error {
			hv, err := j.e.hypervisor(j.vm)
			if err != nil {
				return err
			}
			left, err := hv.Kill(ctx, j.e.machine(j.vm), j.held().Of(banger.MachineHandles))
			return release(j, banger.MachineHandles, left, err)
		},
	}
}

// agent waits for the guest and gives it its identity. Under emulation a guest
// now and then hangs before its first instruction of ours, so a boot whose
// agent never answered is done again, once; and a guest that was restored and
// isn't as it should be is booted, whatever was wrong with it.
func (j *job) agent() move {
	return move{
		name: "agent",
		do: func(ctx context.Context) error {
			err := j.greet(ctx)
			warm := j.launch.Template != ""
			if err == nil || ctx.Err() != nil || !warm && !errors.Is(err, errNoAgent) {
				return err
			}
			if warm {
				j.launch.cold = j.e.Warm.Reject(j.launch.Template, err).Error()
			}
			j.e.Log.Warn("boot again", "vm", j.vm.ID, "op", j.op.ID, "error", err)
			j.tell("agent", "the guest was no good, starting it again")
			if err := j.vmm().undo(ctx); err != nil {
				return err
			}
			j.vm.Boots++
			if err := j.vmm().do(ctx); err != nil {
				return err
			}
			return j.greet(ctx)
		},
		undo: func(context.Context) error { return nil }, // it lives and dies with its VMM
	}
}

// How long after a stream broke the end of its machine may still be unknown.
const seenSoon = 100 * time.Millisecond

var errNoAgent = errors.New("the guest's agent did not answer")

// greet configures the guest, unless the boot deadline or the machine's own
// end comes first.
func (j *job) greet(ctx context.Context) error {
	hv, err := j.e.hypervisor(j.vm)
	if err != nil {
		return err
	}
	kernel, err := j.e.Catalog.KernelVersion(ctx, j.vm.KernelID)
	if err != nil {
		return err
	}
	m := j.e.machine(j.vm)
	within := j.launch.within(j.e.Defaults.Boot)
	boot, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ended, held := make(chan banger.Exit, 1), j.held()
	j.e.spawn(func(context.Context) {
		if exit, err := hv.Wait(boot, m, held); err == nil {
			ended <- exit
			cancel()
		}
	})
	c := guest.Client{Dial: dialer(hv, m)}
	id := identity(j.vm, kernel)
	ready, err := c.Configure(boot, id)
	if err == nil {
		return up(j, id, ready)
	}
	if boot.Err() == nil {
		// The stream may break a moment before the end is known.
		select {
		case <-boot.Done():
		case <-time.After(seenSoon):
		}
	}
	select {
	case exit := <-ended:
		j.vm.Exit = final(exit)
		return exit.Excuse(banger.Errorf(banger.CodeUnavailable, "the guest ended before its agent answered: %s", endedBy(exit)).
			WithHint("the end of its console: %s", console.Tail(m.Dir)))
	default:
	}
	if ctx.Err() == nil && errors.Is(boot.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w within %s: %w", errNoAgent, within.Round(time.Second),
			banger.Errorf(banger.CodeTimeout, "%v", err).WithHint("the end of its console: %s", console.Tail(m.Dir)))
	}
	return err
}

func dialer(hv banger.Hypervisor, m banger.Machine) guest.Dialer {
	return func(ctx context.Context) (net.Conn, error) { return hv.Dial(ctx, m) }
}

func (e *Engine) hypervisor(vm banger.VM) (banger.Hypervisor, error) {
	if hv := e.Hypervisors[vm.Spec.Hypervisor]; hv != nil {
		return hv, nil
	}
	return nil, banger.Errorf(banger.CodeUnavailable, "there is no hypervisor %q on this host", vm.Spec.Hypervisor)
}

// machine is what a driver needs to find a machine again: nothing in it can
// fail, so that whatever was started can be ended.
func (e *Engine) machine(vm banger.VM) banger.Machine {
	return banger.Machine{
		ID: vm.ID, Dir: e.dir(vm.ID), RAMDir: e.RAMDir,
		VCPU: vm.Spec.VCPU, MemoryMiB: vm.Spec.MemoryMiB, Net: network(vm), Limits: vm.Spec.Limits,
	}
}

// bootable is what a driver needs to start one.
func (e *Engine) bootable(ctx context.Context, vm banger.VM) (banger.Machine, error) {
	m := e.machine(vm)
	image, boot, err := e.Catalog.Files(ctx, vm.ImageID, vm.KernelID)
	if err != nil {
		return m, err
	}
	// The disk is attached; asking for it again is how its path is learned.
	disk, _, err := attach(ctx, e, vm)
	if err != nil {
		return m, fmt.Errorf("disk: %w", err)
	}
	return equip(m, image, boot, disk), nil
}

// equip gives a machine what it boots from and its drives.
func equip(m banger.Machine, image string, boot banger.BootFiles, disk string) banger.Machine {
	m.Kernel, m.Initramfs = boot.Vmlinux, boot.Initramfs
	m.Drives = []banger.Drive{{Serial: serials.Image, Path: image, ReadOnly: true}}
	if boot.Modules != "" {
		m.Drives = append(m.Drives, banger.Drive{Serial: serials.Modules, Path: boot.Modules, ReadOnly: true})
	}
	m.Drives = append(m.Drives, banger.Drive{Serial: serials.Disk, Path: disk})
	return m
}

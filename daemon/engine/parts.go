package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"banger"
	"banger/daemon/console"
	"banger/daemon/engine/fleet"
	"banger/daemon/engine/plan"
	"banger/guest"
	"banger/host/hostfs"
	"banger/host/published"
)

// parts are the steps that build a VM, in the turn of a verb.
type parts struct {
	*fleet.Turn
	e *Engine
	p banger.Progress

	runs bool // the creation of a VM ends in its start
	launch
}

// steps are all that a VM is built of, first to last.
func (j *parts) steps() []plan.Step {
	return []plan.Step{j.directory(), j.disk(), j.attachment(), j.link(), j.vmm(), j.agent()}
}

// by returns a function that calls do with one of a VM's drivers.
func by[D any](find func(banger.VM) (D, error), j *parts, do func(context.Context, D) error) func(context.Context) error {
	return func(ctx context.Context) error {
		d, err := find(j.VM)
		if err != nil {
			return err
		}
		return do(ctx, d)
	}
}

// holding is a step whose effect gives the VM handles: the share of one driver.
func holding[D any](name string, s banger.Share, find func(banger.VM) (D, error), j *parts,
	do func(context.Context, D) (banger.Handles, error),
	undo func(context.Context, D, banger.Handles) (left banger.Handles, err error),
) plan.Step {
	return plan.Step{
		Name: name,
		Do: by(find, j, func(ctx context.Context, d D) error {
			h, err := do(ctx, d)
			// Of what was made on the way to an error the undo will know.
			if h = j.Held().With(s, h); err == nil && h != j.Held() {
				j.Hold(h)
			}
			return err
		}),
		Undo: by(find, j, func(ctx context.Context, d D) error {
			left, err := undo(ctx, d, j.Held().Of(s))
			// What is left is still held, even on an error. The scratch file is written only at the
			// end: it does no harm if it has too much.
			h := j.Held().With(s, left)
			if j.Keep(h); h.Empty() || err != nil {
				j.Hold(h)
			}
			if left = left.Of(s); err == nil && !left.Empty() {
				err = banger.Errorf(banger.CodeUnavailable, "not all of it is gone: %+v", left)
			}
			return err
		}),
	}
}

func (j *parts) tell(stage, message string) {
	if j.p != nil {
		j.p(banger.Event{Op: j.ID, VM: j.VM.ID, Stage: stage, Message: message, Time: j.e.Now()})
	}
}

func (j *parts) directory() plan.Step {
	dir := j.e.dir(j.VM.ID)
	change := func(name string, do func(string) error) func(context.Context) error {
		return func(context.Context) error {
			err := j.e.files(name, func() error { return do(dir) })
			if err == nil { // the directory must survive a power cut once the VM is acknowledged
				err = j.e.files("sync directory", func() error { return hostfs.SyncDir(filepath.Dir(dir)) })
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = nil // there are no directories of VMs yet
			}
			return err
		}
	}
	return plan.Step{
		Name: "directory", Lasting: true,
		Do:   change("mkdir", func(dir string) error { return os.MkdirAll(dir, 0o700) }),
		Undo: change("rmdir", os.RemoveAll),
	}
}

func (j *parts) disk() plan.Step {
	dir := j.e.dir(j.VM.ID)
	return plan.Step{
		Name: "disk", Lasting: true,
		Do: by(j.e.disk, j, func(ctx context.Context, disks banger.Disks) error {
			if j.runs {
				if made, err := j.copied(ctx, disks, dir); made || err != nil {
					return err
				}
			}
			_, err := disks.Create(ctx, dir, j.VM.Spec.DiskMiB)
			return err
		}),
		Undo: by(j.e.disk, j, func(ctx context.Context, disks banger.Disks) error { return disks.Remove(ctx, dir) }),
	}
}

func (j *parts) attachment() plan.Step {
	dir := j.e.dir(j.VM.ID)
	return holding("attach", banger.DiskHandles, j.e.disk, j,
		func(ctx context.Context, disks banger.Disks) (h banger.Handles, err error) {
			if err = disks.Grow(ctx, dir, j.VM.Spec.DiskMiB); err == nil { // SetVM may have changed the size
				_, h, err = j.e.attach(ctx, j.VM)
			}
			return h, err
		},
		func(ctx context.Context, disks banger.Disks, held banger.Handles) (banger.Handles, error) {
			return disks.Detach(ctx, j.VM.ID, dir, held)
		})
}

func (j *parts) link() plan.Step {
	find := func(vm banger.VM) (banger.Networks, error) { return j.e.Networks[vm.Spec.Net], nil }
	return holding("network", banger.NetHandles, find, j,
		func(ctx context.Context, n banger.Networks) (h banger.Handles, err error) {
			if n == nil {
				_, err = j.e.mode(j.VM.Spec.Net)
				return h, err
			}
			return n.Set(ctx, banger.Link{VM: j.VM.ID, Net: network(j.VM)})
		},
		func(ctx context.Context, n banger.Networks, held banger.Handles) (banger.Handles, error) {
			if n == nil && !held.Empty() {
				return held, banger.Errorf(banger.CodeUnavailable, "%s can't be removed by this daemon", held.Tap).
					WithHint("run it as root, as the one that made it")
			}
			if n == nil {
				return held, nil
			}
			return n.CleanUp(ctx, j.VM.ID, held)
		})
}

func (j *parts) vmm() plan.Step {
	return holding("vmm", banger.MachineHandles, j.e.hypervisor, j,
		func(ctx context.Context, hv banger.Hypervisor) (h banger.Handles, err error) {
			disk, _, err := j.e.attach(ctx, j.VM) // again: so its path is learned
			if err != nil {
				return h, err
			}
			m, err := j.e.bootable(ctx, j.VM, disk)
			if err != nil {
				return h, err
			}
			ports := j.VM.Spec.Ports
			if len(ports) == 0 {
				return j.bring(ctx, hv, m)
			}
			held, err := j.e.Ports.Take(j.VM.ID, ports)
			if err != nil {
				return h, err
			}
			defer published.Close(held) // the shim has its own
			if h, err = j.bring(ctx, hv, m); err == nil {
				err = j.publish(ctx, ports, held)
			}
			return h, err
		},
		func(ctx context.Context, hv banger.Hypervisor, held banger.Handles) (banger.Handles, error) {
			return hv.Kill(ctx, j.e.machine(j.VM), held)
		})
}

// agent waits for the guest and gives it its identity. An emulated guest sometimes hangs
// before it runs our code. So a boot without an answer from the agent is done again, once.
// A restored guest with any fault is booted instead.
func (j *parts) agent() plan.Step {
	return plan.Step{
		Name: "agent",
		Do: by(j.e.hypervisor, j, func(ctx context.Context, hv banger.Hypervisor) error {
			err := j.greet(ctx, hv)
			warm := j.Template != ""
			if err == nil || ctx.Err() != nil || !warm && !errors.Is(err, errNoAgent) {
				return err
			}
			if warm {
				j.cold = j.e.Templates.Reject(j.Template, err).Error()
			}
			j.e.Log.Warn("boot again", "vm", j.VM.ID, "op", j.ID, "error", err)
			j.tell("agent", "the guest didn't come up, starting it again")
			if err := j.vmm().Undo(ctx); err != nil {
				return err
			}
			j.VM.Boots++
			if err := j.vmm().Do(ctx); err != nil {
				return err
			}
			return j.greet(ctx, hv)
		}),
		Undo: func(context.Context) error { return nil }, // the agent ends with the VMM
	}
}

// seenSoon is how long it may take, after a stream broke, until the end of the machine is
// known.
const seenSoon = 100 * time.Millisecond

var errNoAgent = errors.New("the guest's agent did not answer")

// greet configures the guest, unless the boot deadline or the machine's own
// end comes first.
func (j *parts) greet(ctx context.Context, hv banger.Hypervisor) error {
	id, err := j.e.identity(ctx, j.VM)
	if err != nil {
		return err
	}
	m := j.e.machine(j.VM)
	within := j.e.Defaults.Boot
	if j.Template != "" {
		within /= 2 // the other half is for booting it if this fails
	}
	boot, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	over, held := make(chan banger.Exit, 1), j.Held()
	go func() { // it is over when boot is
		if exit, err := hv.Wait(boot, m, held); err == nil {
			over <- exit
			cancel()
		}
	}()
	c := guest.Client{Dial: dialer(hv, m)}
	ready, err := c.Configure(boot, id)
	if err == nil {
		return j.up(id, ready)
	}
	select {
	case exit := <-over:
		j.VM.Exit = &exit
		return exit.Excuse(banger.Errorf(banger.CodeUnavailable, "the guest ended before its agent answered: %s", ended(&exit)).
			WithHint("the end of its console: %s", console.Tail(m.Dir)))
	case <-ctx.Done():
	case <-time.After(seenSoon):
	}
	if ctx.Err() == nil && errors.Is(boot.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w within %s: %w", errNoAgent, within.Round(time.Second),
			banger.Errorf(banger.CodeTimeout, "%v", err).WithHint("the end of its console: %s", console.Tail(m.Dir)))
	}
	return err
}

// refind finds the disk and network of a running VM again, and mends its network if somebody
// changed it. Errors are only logged: the VM runs on.
func (j *parts) refind(ctx context.Context) {
	if _, disk, err := j.e.attach(ctx, j.VM); err == nil {
		j.Keep(j.Held().With(banger.DiskHandles, disk))
	} else {
		j.e.Log.Warn("the disk of a running VM was not found again", "vm", j.VM.ID, "error", err)
	}
	if err := j.publish(ctx, j.VM.Spec.Ports, nil); err != nil && len(j.VM.Spec.Ports) > 0 {
		j.e.Log.Warn("the ports of a running VM were not published again", "vm", j.VM.ID, "error", err)
	}
	if err := j.link().Do(ctx); err != nil {
		j.e.Log.Warn("the network of a running VM was not set again", "vm", j.VM.ID, "error", err)
	}
}

// copied makes the disk of a new VM as a copy of an image template's, if there is one, and if
// the creation ends in a start. Else a crash could leave a disk that was used in a VM that
// takes it for new; but such a creation is undone as a whole.
func (j *parts) copied(ctx context.Context, disks banger.Disks, dir string) (made bool, err error) {
	cloner, ok := disks.(banger.Cloner)
	if !ok || j.e.Templates == nil || j.VM.Spec.Cold || j.VM.Spec.NoInit {
		return false, nil
	}
	m, err := j.e.bootable(ctx, j.VM, "")
	if err != nil {
		return false, err
	}
	template, from, err := j.e.Templates.Image(ctx, j.VM.Spec.Hypervisor, j.VM.ImageID, j.VM.Spec.DiskMiB, m)
	if err != nil {
		j.e.Log.Debug("no image template", "vm", j.VM.ID, "error", err)
		return false, nil // nearly always because there is none
	}
	if _, err := cloner.Clone(ctx, dir, from); err != nil {
		j.e.Log.Warn("an image template's disk was not copied; making an empty one", "vm", j.VM.ID, "template", template, "error", err)
		return false, disks.Remove(ctx, dir) // what the failed copy left
	}
	j.image = template
	return true, nil
}

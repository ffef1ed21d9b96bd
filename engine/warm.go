package engine

import (
	"context"
	"time"

	"banger"
	"banger/guest"
)

// Warm starts machines from templates.
type Warm interface {
	// Restore starts a machine from the template of its kind and returns that one's
	// id. The error says for a person why it has to be booted instead; nothing of
	// the machine runs then.
	Restore(ctx context.Context, hypervisor string, m banger.Machine) (h banger.Handles, template string, err error)
	// Renewed judges what a guest restored from a template, and since a moment asked
	// to become id, reports: an error means that it shares with others what it must not.
	Renewed(template string, id guest.Identity, since time.Time, r guest.Ready) error
	// Image returns the image template for a new machine of this image and disk
	// size, and the file its disk must be a copy of; the error says why there is none.
	Image(ctx context.Context, hypervisor, image string, diskMiB int, m banger.Machine) (template, disk string, err error)
	// RestoreImage starts a machine whose disk is such a copy, and was never used.
	RestoreImage(ctx context.Context, hypervisor string, m banger.Machine, template string) (banger.Handles, error)
	// Reject removes a template whose guest was no good, not killed. Its error says so.
	Reject(template string, why error) error
	// Want notes that a machine of this kind had to be booted.
	Want(ctx context.Context, hypervisor, kernel string, m banger.Machine)
}

// launch is how a job starts its VM, and how that goes.
type launch struct {
	cold  string // why it is booted; empty: it may be restored
	image string // the image template whose disk the VM was just given; empty: none
	began time.Time
	banger.Launch
}

// bring starts the job's machine, from a template if there is one.
func bring(ctx context.Context, j *job, hv banger.Hypervisor, m banger.Machine) (h banger.Handles, err error) {
	l := &j.launch
	image := l.image
	l.began, l.Launch, l.image = j.e.Now(), banger.Launch{}, "" // a disk is like that once
	defer func() { l.lap("vmm", j.e.Now()) }()
	switch {
	case l.cold != "":
		l.Why = l.cold
	case j.vm.Spec.Cold:
		l.Why = "it was made with --cold"
	case j.e.Warm == nil:
		l.Why = "there are no templates here"
	case image != "":
		if h, err = j.e.Warm.RestoreImage(ctx, j.vm.Spec.Hypervisor, m, image); err == nil || ctx.Err() != nil {
			l.Template, l.image = image, image
			return h, err
		}
		l.Why = err.Error() // the disk can be booted, too
	default:
		if h, l.Template, err = j.e.Warm.Restore(ctx, j.vm.Spec.Hypervisor, m); err == nil || ctx.Err() != nil {
			return h, err
		}
		l.Template, l.Why = "", err.Error()
		j.e.Warm.Want(ctx, j.vm.Spec.Hypervisor, j.vm.KernelID, m)
	}
	return hv.Start(ctx, m)
}

// lap ends a step of the launch.
func (l *launch) lap(name string, now time.Time) {
	l.Stages = append(l.Stages, banger.Stage{Name: name, Took: now.Sub(l.began)})
	l.began = now
}

// up takes what a guest reports that has become this VM.
func up(j *job, id guest.Identity, r guest.Ready) error {
	l := &j.launch
	asked := l.began
	l.lap("agent", j.e.Now())
	for _, s := range r.Stages[:min(len(r.Stages), maxStages)] {
		l.Stages = append(l.Stages, banger.Stage{Name: "guest: " + s.Name, Took: time.Duration(s.TookUS) * time.Microsecond})
	}
	if l.Template != "" {
		if err := j.e.Warm.Renewed(l.Template, id, asked, r); err != nil {
			return err
		}
		l.Renewed, l.Shared = r.Renewed, guest.Shared()
		if l.image != "" {
			l.Shared = append(l.Shared, guest.Standing)
		}
	}
	done := l.Launch // others see it from now on, and it changes no more
	j.vm.Launch = &done
	return nil
}

// maxStages bounds what a guest may tell of its start.
const maxStages = 32

// within is how long the agent of a machine so started may take to answer.
func (l *launch) within(boot time.Duration) time.Duration {
	if l.Template != "" {
		return boot / 2 // the other half is for the boot that then comes
	}
	return boot
}

// Idle reports whether no operation is in flight.
func (g *registry) Idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.vms {
		if len(r.lock) > 0 {
			return false
		}
	}
	return true
}

// BootVM is StartVM without a template.
func (c Control) BootVM(ctx context.Context, ref string, p banger.Progress) (banger.VM, error) {
	return startVM(ctx, c.Engine, ref, askedCold, p)
}

const askedCold = "asked to boot"

// fromImage makes the disk of a new VM that is to run at once a copy of an image
// template's, if there is one for it. Only then: no crash leaves such a disk that
// was used in a VM that takes it for new, for the whole creation is undone.
func fromImage(ctx context.Context, j *job, dir string) (made bool, err error) {
	disks, err := j.e.Host.disk(j.vm)
	if err != nil {
		return false, err
	}
	cloner, ok := disks.(banger.Cloner)
	if !ok || j.e.Warm == nil || j.vm.Spec.Cold || j.vm.Spec.NoInit {
		return false, nil
	}
	path, boot, err := j.e.Catalog.Files(ctx, j.vm.ImageID, j.vm.KernelID)
	if err != nil {
		return false, err
	}
	template, disk, err := j.e.Warm.Image(ctx, j.vm.Spec.Hypervisor, j.vm.ImageID, j.vm.Spec.DiskMiB, equip(j.e.machine(j.vm), path, boot, ""))
	if err != nil {
		j.e.Log.Debug("no image template", "vm", j.vm.ID, "error", err)
		return false, nil // nearly always: there is none
	}
	if _, err := cloner.Clone(ctx, dir, disk); err != nil {
		return false, err
	}
	j.launch.image = template
	return true, nil
}

// Kindred is what a template for VMs of a kind is made of: a machine that is no
// VM's, and what its guest would be told.
type Kindred struct {
	Spec              banger.Spec
	ImageID, KernelID string
	Machine           banger.Machine
	Identity          guest.Identity
	Disks             banger.Disks
}

// Kindred returns what makes a template for VMs of a kind.
func (c Control) Kindred(ctx context.Context, t banger.TemplateSpec, p banger.Progress) (k Kindred, err error) {
	k.Spec = c.Defaults.fill(banger.Spec{Name: "template", Hypervisor: t.Hypervisor, Kernel: t.Kernel, VCPU: t.VCPU,
		MemoryMiB: t.MemoryMiB, Net: t.Net, Image: t.Image, DiskMiB: t.DiskMiB})
	if err := validate(c.Engine, k.Spec); err != nil {
		return k, err
	}
	if err := room(k.Spec, c.HostMemoryMiB); err != nil {
		return k, err
	}
	if k.ImageID, k.KernelID, err = c.Catalog.Resolve(ctx, k.Spec.Image, k.Spec.Kernel, p); err != nil {
		return k, err
	}
	path, boot, err := c.Catalog.Files(ctx, k.ImageID, k.KernelID)
	if err != nil {
		return k, err
	}
	version, err := c.Catalog.KernelVersion(ctx, k.KernelID)
	if err != nil {
		return k, err
	}
	vm := banger.VM{ID: c.NewID(), Spec: k.Spec}
	k.Machine, k.Identity = equip(c.machine(vm), path, boot, ""), identity(vm, version)
	k.Disks, err = c.Host.disk(vm)
	return k, err
}

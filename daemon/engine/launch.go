package engine

import (
	"context"
	"time"

	"banger"
	"banger/guest"
)

// Templates starts machines from templates.
type Templates interface {
	// Restore starts a machine from the template of its kind and returns the template's id.
	// An error says, for a person, why the machine must be booted instead; nothing of it
	// runs then.
	Restore(ctx context.Context, hypervisor string, m banger.Machine) (h banger.Handles, template string, err error)
	// Renewed checks the report r of a guest that was restored from a template and asked at
	// since to become id. An error means that it shares something with other guests.
	Renewed(template string, id guest.Identity, since time.Time, r guest.Ready) error
	// Image returns the image template for a new machine of this image and disk
	// size, and the file its disk must be a copy of; the error says why there is none.
	Image(ctx context.Context, hypervisor, image string, diskMiB int, m banger.Machine) (template, disk string, err error)
	// RestoreImage starts a machine whose disk is such a copy and was never used.
	RestoreImage(ctx context.Context, hypervisor string, m banger.Machine, template string) (banger.Handles, error)
	// Reject removes a template whose guest failed, unless the guest was killed. It returns
	// an error that says so.
	Reject(template string, why error) error
	// Want notes that a machine of this kind had to be booted.
	Want(ctx context.Context, hypervisor, kernel string, m banger.Machine)
}

// launch says how a VM is to be started, and records how it was.
type launch struct {
	cold  string // why it is booted; empty: it may be restored
	image string // the image template whose disk the VM was just given; empty: none
	began time.Time
	banger.Launch
}

// bring starts the VM's machine, from a template if there is one.
func (j *parts) bring(ctx context.Context, hv banger.Hypervisor, m banger.Machine) (h banger.Handles, err error) {
	image, templates := j.image, j.e.Templates
	j.began, j.Launch, j.image = j.e.Now(), banger.Launch{}, "" // a copied disk can be used only once
	defer func() { j.lap("vmm", j.e.Now()) }()
	switch {
	case j.cold != "":
		j.Why = j.cold
	case j.VM.Spec.Cold:
		j.Why = "it was made with --cold"
	case templates == nil:
		j.Why = "there are no templates here"
	case image != "":
		if h, err = templates.RestoreImage(ctx, j.VM.Spec.Hypervisor, m, image); err == nil || ctx.Err() != nil {
			j.Template, j.image = image, image
			return h, err
		}
		j.Why = err.Error() // boot: the disk can be booted, too
	default:
		if h, j.Template, err = templates.Restore(ctx, j.VM.Spec.Hypervisor, m); err == nil || ctx.Err() != nil {
			return h, err
		}
		j.Template, j.Why = "", err.Error()
		templates.Want(ctx, j.VM.Spec.Hypervisor, j.VM.KernelID, m)
	}
	return hv.Start(ctx, m)
}

// lap ends a step of the launch.
func (l *launch) lap(name string, now time.Time) {
	l.Stages = append(l.Stages, banger.Stage{Name: name, TookMS: now.Sub(l.began).Round(time.Millisecond).Milliseconds()})
	l.began = now
}

// up takes over the report of a guest that has become the VM.
func (j *parts) up(id guest.Identity, r guest.Ready) error {
	asked := j.began
	j.lap("agent", j.e.Now())
	for _, s := range r.Stages[:min(len(r.Stages), maxStages)] {
		j.Stages = append(j.Stages, banger.Stage{Name: "guest: " + s.Name, TookMS: (s.TookUS + 500) / 1000})
	}
	if j.Template != "" {
		if err := j.e.Templates.Renewed(j.Template, id, asked, r); err != nil {
			return err
		}
		j.Renewed, j.Shared = r.Renewed[:min(len(r.Renewed), maxStages)], guest.Shared()
		if j.image != "" {
			j.Shared = append(j.Shared, guest.Standing)
		}
	}
	done := j.Launch // a copy: others read it from now on
	j.VM.Launch = &done
	return nil
}

// maxStages bounds how many stages of its start a guest may report, and how many renewals.
const maxStages = 32

// Original is what a template is made of: a temporary machine, and the identity that its
// guest would get.
type Original struct {
	Spec              banger.Spec
	ImageID, KernelID string
	Machine           banger.Machine
	Identity          guest.Identity
	Disks             banger.Disks
}

// Original returns what the template that t asks for is made of.
func (e *Engine) Original(ctx context.Context, t banger.TemplateSpec, p banger.Progress) (o Original, err error) {
	spec := banger.Spec{Name: "template", Hypervisor: t.Hypervisor, Isolation: t.Isolation, Kernel: t.Kernel, VCPU: t.VCPU,
		MemoryMiB: t.MemoryMiB, Net: t.Net, Image: t.Image, DiskMiB: t.DiskMiB}
	spec, note, err := e.capturable(ctx, spec)
	if err != nil {
		return o, err
	}
	if note != "" && p != nil {
		p(banger.Event{Stage: banger.StageNote, Message: note, Time: e.Now()})
	}
	vm, err := e.specified(ctx, spec, p)
	if err != nil {
		return o, err
	}
	o.Spec, o.ImageID, o.KernelID = vm.Spec, vm.ImageID, vm.KernelID
	if o.Machine, err = e.bootable(ctx, vm, ""); err != nil {
		return o, err
	}
	if o.Identity, err = e.identity(ctx, vm); err != nil {
		return o, err
	}
	o.Disks, err = e.disk(vm)
	return o, err
}

// capturable returns a spec of VMs that there are templates of, and a note for a person who left it
// open what they run on.
func (h Host) capturable(ctx context.Context, s banger.Spec) (capturable banger.Spec, note string, err error) {
	chosen, _, err := h.choose(ctx, s)
	if err != nil || chosen.Isolation != banger.ByProcess {
		return s, "", err
	}
	if s.Isolation != "" || s.Hypervisor != "" {
		return s, "", banger.Errorf(banger.CodeInvalid, "there are no templates of VMs with isolation process").
			WithHint("they boot in a fraction of a second; --isolation emulated, or hardware where KVM works, has templates")
	}
	s.Isolation = banger.ByEmulation
	return s, "VMs have isolation process here, of which there are no templates: this one is for VMs that are made with --isolation emulated", nil
}

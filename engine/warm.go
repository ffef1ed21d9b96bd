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
	// Renewed judges what a restored guest that was to become id reports: an error
	// means that it shares with others what it must not.
	Renewed(id guest.Identity, r guest.Ready) error
	// Reject removes a template whose guest was no good. Its error says so.
	Reject(template string, why error) error
	// Want notes that a machine of this kind had to be booted.
	Want(ctx context.Context, hypervisor, kernel string, m banger.Machine)
}

// launch is how a job starts its VM, and how that goes.
type launch struct {
	cold  string // why it is booted; empty: it may be restored
	began time.Time
	banger.Launch
}

// bring starts the job's machine, from a template if there is one.
func bring(ctx context.Context, j *job, hv banger.Hypervisor, m banger.Machine) (h banger.Handles, err error) {
	l := &j.launch
	l.began, l.Launch = j.e.Now(), banger.Launch{}
	defer func() { l.lap("vmm", j.e.Now()) }()
	switch {
	case l.cold != "":
		l.Why = l.cold
	case j.vm.Spec.Cold:
		l.Why = "it was made with --cold"
	case j.e.Warm == nil:
		l.Why = "there are no templates here"
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
	l.lap("agent", j.e.Now())
	for _, s := range r.Stages[:min(len(r.Stages), maxStages)] {
		l.Stages = append(l.Stages, banger.Stage{Name: "guest: " + s.Name, Took: time.Duration(s.TookUS) * time.Microsecond})
	}
	if l.Template != "" {
		if err := j.e.Warm.Renewed(id, r); err != nil {
			return err
		}
		l.Renewed, l.Shared = r.Renewed, guest.Shared()
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

// Kindred returns what a template for VMs of a kind is made of: a machine that is
// no VM's, and the id of its kernel.
func (c Control) Kindred(ctx context.Context, t banger.TemplateSpec, p banger.Progress) (s banger.Spec, kernelID string, m banger.Machine, err error) {
	s = c.Defaults.fill(banger.Spec{Hypervisor: t.Hypervisor, Kernel: t.Kernel, VCPU: t.VCPU, MemoryMiB: t.MemoryMiB, Net: t.Net})
	if err := validate(c.Engine, s); err != nil {
		return s, "", m, err
	}
	if err := room(s, c.HostMemoryMiB); err != nil {
		return s, "", m, err
	}
	image, kernelID, err := c.Catalog.Resolve(ctx, s.Image, s.Kernel, p)
	if err != nil {
		return s, "", m, err
	}
	path, boot, err := c.Catalog.Files(ctx, image, kernelID)
	if err != nil {
		return s, "", m, err
	}
	vm := banger.VM{ID: c.NewID(), Spec: s}
	return s, kernelID, equip(c.machine(vm), path, boot, ""), nil
}

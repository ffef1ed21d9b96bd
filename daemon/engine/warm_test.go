package engine_test

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/fake"
	"banger/guest"
	"banger/template"
)

// warmWorld is a world whose daemon d has a template of the kind of aSpec.
func warmWorld(t *testing.T) (*daemon, *template.Store, banger.Spec) {
	t.Helper()
	w := newWorld(t)
	d := w.open(nil)
	t.Cleanup(d.Close)
	s := &template.Store{
		Dir: filepath.Join(w.dir, "templates"), Hypervisors: d.Hypervisors,
		NewID: d.NewID, Now: time.Now, Log: slog.New(slog.DiscardHandler),
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.Warm = s
	makeTemplate(t, d, s)
	return d, s, banger.Spec{Net: banger.NetUser}
}

func makeTemplate(t *testing.T, d *daemon, s *template.Store) {
	t.Helper()
	k, err := d.Kindred(t.Context(), banger.TemplateSpec{Net: banger.NetUser}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Make(t.Context(), template.Subject{Hypervisor: k.Spec.Hypervisor, Kernel: k.KernelID, Machine: k.Machine}, nil); err != nil {
		t.Fatal(err)
	}
}

func (d *daemon) create(t *testing.T, spec banger.Spec) banger.VM {
	t.Helper()
	vm, err := d.CreateVM(t.Context(), spec, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func TestEveryStartIsWarm(t *testing.T) {
	d, _, spec := warmWorld(t)
	vm := d.create(t, spec)
	warm := func(what string, vm banger.VM, err error) {
		t.Helper()
		if err != nil || vm.State != banger.Running || vm.Launch == nil || vm.Launch.Template == "" || !slices.Equal(vm.Launch.Renewed, guest.Renewals()) || len(vm.Launch.Shared) == 0 {
			t.Errorf("%s: %+v, %v", what, vm.Launch, err)
		}
	}
	cold := func(what, why string, vm banger.VM, err error) {
		t.Helper()
		if err != nil || vm.State != banger.Running || vm.Launch == nil || vm.Launch.Template != "" || !strings.Contains(vm.Launch.Why, why) {
			t.Errorf("%s: %+v, %v", what, vm.Launch, err)
		}
	}
	stop := func(vm banger.VM) {
		t.Helper()
		if _, err := d.StopVM(t.Context(), vm.ID, banger.StopOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	warm("create", vm, nil)
	stop(vm)
	vm, err := d.StartVM(t.Context(), vm.ID, nil)
	warm("start", vm, err)
	vm, err = d.RestartVM(t.Context(), vm.ID, banger.StopOptions{}, nil)
	warm("restart", vm, err)
	vm, err = d.RestartVM(t.Context(), vm.ID, banger.StopOptions{Cold: true}, nil)
	cold("restart --cold", "asked to boot", vm, err)
	stop(vm)
	vm, err = d.BootVM(t.Context(), vm.ID, nil)
	cold("start --cold", "asked to boot", vm, err)
	bigger := spec
	bigger.DiskMiB = 4096
	warm("another disk size", d.create(t, bigger), nil)
	never := spec
	never.Cold = true
	cold("create --cold", "--cold", d.create(t, never), nil)
	other := spec
	other.VCPU = 2
	cold("another kind", "no template", d.create(t, other), nil)
}

// A restored guest that leaves out a renewal, or doesn't answer, is no VM: the VM
// is booted instead, and the template is gone.
func TestNoSharedIdentity(t *testing.T) {
	for _, skip := range append(guest.Renewals(), "everything: it says no") {
		t.Run(skip, func(t *testing.T) {
			d, s, spec := warmWorld(t)
			d.host.Agent = func(g *fake.Guest) { saboteur(g, skip) }
			vm := d.create(t, spec)
			if vm.State != banger.Running || vm.Launch == nil || vm.Launch.Template != "" || !strings.Contains(vm.Launch.Why, skip) {
				t.Errorf("%s: %+v", vm.State, vm.Launch)
			}
			if all, _ := s.Templates(t.Context()); len(all) != 0 {
				t.Errorf("the template is still there: %+v", all)
			}
			if err := d.DeleteVM(t.Context(), vm.ID); err != nil {
				t.Error(err)
			}
			if owned := d.host.Owned(); len(owned) != 0 {
				t.Errorf("left behind: %v", owned)
			}
		})
	}
}

// saboteur serves a restored guest's stream and leaves out what skip says.
func saboteur(g *fake.Guest, skip string) {
	if !g.Restored() {
		g.Serve()
		return
	}
	defer g.Close()
	req, err := guest.ReadRequest(g)
	if err != nil {
		return
	}
	var id guest.Identity
	if err := json.Unmarshal(req.Body, &id); err != nil {
		return
	}
	ready := guest.Ready{Agent: "fake", Init: "/sbin/init", BootID: "its own", Seen: fake.Seen(id)}
	for _, name := range guest.Renewals() {
		if name != skip {
			ready.Renewed = append(ready.Renewed, name)
		}
	}
	if len(ready.Renewed) == len(guest.Renewals()) {
		err = guest.Errorf(guest.CodeInternal, "%s", skip)
	}
	if raw, err := guest.AppendResponse(nil, req.Max, ready, err); err == nil {
		_, _ = g.Write(raw)
	}
}

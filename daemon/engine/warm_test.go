package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"banger"
	"banger/daemon/engine"
	"banger/daemon/template"
	"banger/guest"
	"banger/test/fake"
)

// warmth is the templates of a world's daemons. The one there is serves as that of
// an image, too.
type warmth struct{ *template.Store }

// clonedMiB is the disk size that there is an image template for.
const clonedMiB = 2048

// Image implements engine.Templates.
func (s warmth) Image(ctx context.Context, _, _ string, diskMiB int, m banger.Machine) (id, disk string, err error) {
	list, err := s.Templates(ctx)
	if err != nil || len(list) == 0 || diskMiB != clonedMiB || m.Net.Mode != banger.NetUser {
		return "", "", errors.Join(err, errors.New("there is none"))
	}
	return list[0].ID, filepath.Join(s.Dir, "disk"), nil
}

// heat makes the template of user, unless there is one.
func (w *world) heat(d *daemon) {
	w.t.Helper()
	s, ok := d.Templates.(warmth)
	if !ok {
		return
	}
	list, err := s.Templates(context.Background())
	if err == nil && len(list) == 0 {
		var k engine.Original
		if k, err = d.Original(context.Background(), banger.TemplateSpec{Net: banger.NetUser}, nil); err == nil {
			_, err = s.Make(context.Background(), template.Original{Hypervisor: k.Spec.Hypervisor, Kernel: k.KernelID, Machine: k.Machine}, nil)
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(s.Dir, "disk"), []byte(strconv.Itoa(clonedMiB)), 0o600))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// warmWorld is a world whose daemon d has a template of the kind of user.
func warmWorld(t *testing.T) (*daemon, *template.Store, banger.Spec) {
	t.Helper()
	w := newWorld(t)
	w.warm = true
	d := w.open(nil)
	t.Cleanup(w.end)
	w.heat(d)
	return d, d.Templates.(warmth).Store, banger.Spec{Net: banger.NetUser}
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
	vm, err := d.StartVM(t.Context(), vm.ID, banger.StartOptions{}, nil)
	warm("start", vm, err)
	vm, err = d.RestartVM(t.Context(), vm.ID, banger.StopOptions{}, nil)
	warm("restart", vm, err)
	vm, err = d.RestartVM(t.Context(), vm.ID, banger.StopOptions{Cold: true}, nil)
	cold("restart --cold", "asked to boot", vm, err)
	stop(vm)
	vm, err = d.StartVM(t.Context(), vm.ID, banger.StartOptions{Cold: true}, nil)
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

// A restored guest that reports far more than was asked for is a VM, and its record
// stays small.
func TestManyRenewals(t *testing.T) {
	d, _, spec := warmWorld(t)
	d.host.Agent = func(g *fake.Guest) { answer(g, append(guest.Renewals(), make([]string, 10_000)...), "") }
	vm := d.create(t, spec)
	if vm.Launch == nil || vm.Launch.Template == "" || len(vm.Launch.Renewed) > 100 || !slices.Equal(vm.Launch.Renewed[:len(guest.Renewals())], guest.Renewals()) {
		t.Errorf("of 10,000 renewals its record has %d", len(vm.Launch.Renewed))
	}
}

// saboteur serves a restored guest's stream and leaves out what skip says.
func saboteur(g *fake.Guest, skip string) {
	var list []string
	for _, name := range guest.Renewals() {
		if name != skip {
			list = append(list, name)
		}
	}
	if len(list) == len(guest.Renewals()) {
		list = nil
	}
	answer(g, list, skip)
}

// answer serves a restored guest's stream: it reports list, or, where that is empty, says no.
func answer(g *fake.Guest, list []string, no string) {
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
	if ready.Renewed = list; len(list) == 0 {
		err = guest.Errorf(guest.CodeInternal, "%s", no)
	}
	if raw, err := guest.AppendResponse(nil, req.Max, ready, err); err == nil {
		_, _ = g.Write(raw)
	}
}

package engine_test

import (
	"context"
	"strings"
	"testing"

	"banger"
)

// choices is an engine.Isolations that has a jail, if it may: then what names nothing gets it.
type choices struct{ no bool }

func (c choices) Choose(_ context.Context, s banger.Spec) (banger.Spec, string, error) {
	if c.no && s.Isolation == banger.ByProcess {
		return s, "", banger.Errorf(banger.CodeUnavailable, "no jail")
	}
	note := ""
	if s.Isolation == "" {
		s.Isolation, note = banger.ByProcess, "as a rule"
	}
	if s.Hypervisor = "fake"; s.Isolation == banger.ByProcess {
		s.Hypervisor = "jailed"
		if s.Kernel == "" {
			s.Kernel = "program"
		}
	}
	return s, note, nil
}

// A stopped VM moves to another isolation and back, with its disk and a kernel of each; a running
// one doesn't, and what can't be had is refused and changes nothing.
func TestMove(t *testing.T) {
	w := newWorld(t)
	d := w.open(nil)
	d.Isolations = choices{}
	d.Hypervisors["jailed"] = d.Hypervisors["fake"]
	var told []string
	vm, err := d.CreateVM(t.Context(), banger.Spec{}, true, func(e banger.Event) {
		if e.Stage == banger.StageNote || e.Stage == banger.StageSpec {
			told = append(told, e.Message)
		}
	})
	must(t, err)
	if s := vm.Spec; s.Isolation != banger.ByProcess || s.Hypervisor != "jailed" || s.Kernel != "program" {
		t.Errorf("it runs on %+v", s)
	}
	if said := strings.Join(told, "; "); !strings.Contains(said, "as a rule; ") || !strings.Contains(said, "jailed, isolation process") {
		t.Errorf("told %q", told)
	}
	program := vm.KernelID
	move := func(change banger.Change, code banger.Code) {
		t.Helper()
		got, err := d.SetVM(t.Context(), vm.ID, change)
		if banger.CodeOf(err) != code {
			t.Errorf("%+v: %v, want %q", change, err, code)
		}
		if err == nil {
			vm = got
		}
	}
	move(banger.Change{Isolation: banger.ByEmulation}, banger.CodeConflict)
	move(banger.Change{MemoryMiB: 300}, "")
	vm, err = d.StopVM(t.Context(), vm.ID, banger.StopOptions{})
	must(t, err)
	move(banger.Change{Isolation: "none"}, banger.CodeInvalid)
	move(banger.Change{Isolation: banger.ByEmulation}, "")
	if s := vm.Spec; s.Isolation != banger.ByEmulation || s.Hypervisor != "fake" || s.Kernel != "cloud" || vm.KernelID == program || s.MemoryMiB != 300 {
		t.Errorf("moved: %+v, kernel %s", s, vm.KernelID)
	}
	_, err = d.StartVM(t.Context(), vm.ID, banger.StartOptions{}, nil)
	must(t, err)
	_, err = d.StopVM(t.Context(), vm.ID, banger.StopOptions{})
	must(t, err)
	d.Isolations = choices{no: true}
	move(banger.Change{Isolation: banger.ByProcess}, banger.CodeUnavailable)
	if got, err := d.VM(t.Context(), vm.ID); err != nil || got.Spec.Isolation != banger.ByEmulation {
		t.Errorf("refused, and %+v, %v", got.Spec, err)
	}
	d.Isolations = choices{}
	move(banger.Change{Isolation: banger.ByProcess}, "")
	if vm.KernelID != program || vm.Spec.Kernel != "program" {
		t.Errorf("back: %+v", vm)
	}
	move(banger.Change{VCPU: 2}, "") // the choices allow it
}

// Templates are of VMs that can be frozen, and who left it open is told.
func TestTemplateOfProcess(t *testing.T) {
	w := newWorld(t)
	d := w.open(nil)
	d.Isolations = choices{}
	var told string
	o, err := d.Original(t.Context(), banger.TemplateSpec{}, func(e banger.Event) { told += e.Message })
	must(t, err)
	if o.Spec.Isolation != banger.ByEmulation || !strings.Contains(told, "--isolation emulated") {
		t.Errorf("%+v, told %q", o.Spec, told)
	}
	if _, err := d.Original(t.Context(), banger.TemplateSpec{Isolation: banger.ByProcess}, nil); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("of processes: %v", err)
	}
}

package engine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"banger"
)

// strange are plans that a later version may leave, each with the state its VM is in.
var strange = map[string]struct {
	plan  banger.Plan
	state banger.State
}{
	"of a kind":      {banger.Plan{Kind: "snapshot", Direction: banger.Back, Begun: []string{"freeze"}}, banger.Running},
	"in a direction": {banger.Plan{Kind: banger.PlanStop, Direction: "sideways", Begun: []string{"vmm"}}, banger.Stopping},
	"with a step":    {banger.Plan{Kind: banger.PlanStart, Direction: banger.Back, Begun: []string{"attach", "enchant", "vmm"}}, banger.Starting},
}

// unknown says what becomes of a VM with a plan that this build doesn't know:
// nothing may.
func unknown(w *world, name string) (bad []string) {
	wrong := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	ctx := context.Background()
	d := w.open(nil)
	made(bridged, true)(w, d)
	vm, err := d.VM(ctx, "it")
	if err != nil {
		return []string{err.Error()}
	}
	_, err = d.CreateVM(ctx, banger.Spec{Name: "other"}, true, nil)
	d.kill()
	plan := strange[name].plan
	plan.ID, plan.Subjects, plan.Opened = "0123456789ab", []string{vm.ID}, w.now()
	vm.State = strange[name].state
	if err = errors.Join(err, w.store.Commit(ctx, []banger.VM{vm}, &plan, true)); err != nil {
		return []string{err.Error()}
	}
	before := w.host.Owned()[vm.ID]
	for range 2 {
		d = w.open(nil)
		time.Sleep(24 * time.Hour)
		if vms, err := d.VMs(ctx); err != nil || len(vms) != 2 {
			wrong("%d VMs are listed, %v", len(vms), err)
		}
		for verb, call := range map[string]func(context.Context, *daemon) error{
			"start": start, "stop": stop(banger.StopOptions{Force: true}), "restart": restart(banger.StopOptions{}), "delete": remove,
			"set": set(banger.Change{VCPU: 2}), "prune": func(ctx context.Context, d *daemon) error { return d.PruneVM(ctx, "it") },
		} {
			if err := call(ctx, d); banger.CodeOf(err) != banger.CodeConflict {
				wrong("%s: %v", verb, err)
			}
		}
		for _, call := range []func() (banger.VM, error){
			func() (banger.VM, error) { return d.RestartVM(ctx, "other", banger.StopOptions{}, nil) },
			func() (banger.VM, error) { return d.StopVM(ctx, "other", banger.StopOptions{}) },
			func() (banger.VM, error) { return d.StartVM(ctx, "other", banger.StartOptions{}, nil) },
		} {
			if _, err := call(); err != nil {
				wrong("another VM: %v", err)
			}
		}
		d.kill()
		plans, err := w.store.Plans(ctx)
		if err != nil || len(plans) != 1 || !reflect.DeepEqual(plans[0], plan) {
			wrong("its plan became %+v, %v", plans, err)
		}
		if now := w.host.Owned()[vm.ID]; !slices.Equal(now, before) {
			wrong("it had %v, and now %v", before, now)
		}
	}
	// Whoever knows the plan brings it to rest.
	vm.State = banger.Running
	if err := w.store.Commit(ctx, []banger.VM{vm}, nil, true); err != nil {
		wrong("%v", err)
	}
	d = w.open(nil)
	bad = append(bad, w.settle(d)...)
	return append(bad, w.check(d)...)
}

// A plan that this build doesn't know is refused, kept and harms nobody else.
func TestUnknownPlans(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(strange)) {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) { report(t, unknown(w, name), "a plan %s that isn't known", name) })
		})
	}
}

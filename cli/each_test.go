package cli_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger"
)

// crowd has some VMs and notes which were stopped; a stop of one waits until
// all that are asked for have begun.
type crowd struct {
	banger.VMService
	vms     []banger.VM
	mu      sync.Mutex
	stopped []string
	gate    sync.WaitGroup
	looks   int
}

func (c *crowd) VMs(context.Context) ([]banger.VM, error) {
	c.looks++
	return c.vms, nil
}

func (c *crowd) StopVM(_ context.Context, ref string, _ banger.StopOptions) (banger.VM, error) {
	c.mu.Lock()
	c.stopped = append(c.stopped, ref)
	c.mu.Unlock()
	c.gate.Done()
	c.gate.Wait() // side by side, or for ever
	if ref == "bbbbbbbbbbbb" {
		return banger.VM{}, banger.Errorf(banger.CodeTimeout, "b is stubborn")
	}
	i := slices.IndexFunc(c.vms, func(vm banger.VM) bool { return vm.ID == ref })
	return c.vms[i], nil
}

// Several VMs: looked up once, each done once, side by side, printed in the order
// of naming; the good ones are done though others fail, and the status is the
// first failure's.
func TestSeveral(t *testing.T) {
	c := &crowd{}
	for _, l := range "abcd" {
		id := strings.Repeat(string(l), 12)
		c.vms = append(c.vms, banger.VM{ID: id, Spec: banger.Spec{Name: "vm-" + string(l)}})
	}
	c.gate.Add(4)
	status, out, errs := run(c, "vm", "stop", "vm-d", "nosuch", "vm-b", "aaaa", "vm-d", "dddddd", "vm-a", "cccccccccccc")
	if status != 3 || out != "vm-d\nvm-a\nvm-c\n" || c.looks != 1 || len(c.stopped) != 4 {
		t.Errorf("status %d, %q, %d looks, stopped %v", status, out, c.looks, c.stopped)
	}
	if no, b := strings.Index(errs, "nosuch"), strings.Index(errs, "b is stubborn"); no < 0 || b < no {
		t.Errorf("errors: %q", errs)
	}
	c.gate.Add(1)
	if status, out, errs := run(c, "vm", "stop", "vm-b"); status != 7 || out != "" || strings.Count(errs, "stubborn") != 1 {
		t.Errorf("one: status %d, %q, %q", status, out, errs)
	}
	c.gate.Add(2)
	if status, out, errs := run(c, "vm", "stop", "--json", "vm-b", "vm-c", "nosuch"); status != 7 || errs != "" ||
		!strings.HasPrefix(out, `{"results":[{"id":"cccccccccccc"`) || !strings.Contains(out, `"errors":[{"code":"timeout","message":"b is stubborn"},{"code":"not_found"`) {
		t.Errorf("json: status %d, %q, %q", status, out, errs)
	}
}

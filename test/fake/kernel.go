package fake

import (
	"context"
	"errors"
	"fmt"

	"banger"
)

// object is a TAP, a loop or a device-mapper node.
type object struct {
	kind string
	vm   string // whose; empty: not one VM's, or a stranger's
}

const baseName = "base" // of the loop all disks share

// need returns the name of a VM's object of a kind, made if it isn't there. A
// loop's is the first free one. h.mu is held.
func (h *Host) need(kind, name, vm string) string {
	for have, o := range h.kernel {
		if o == (object{kind, vm}) && (name == "" || have == name) {
			return have
		}
	}
	for i := 0; name == ""; i++ {
		free := fmt.Sprintf("/dev/loop%d", i)
		if _, taken := h.kernel[free]; !taken {
			name = free
		}
	}
	h.kernel[name] = object{kind, vm}
	return name
}

// drop removes a VM's objects of a kind. h.mu is held.
func (h *Host) drop(kind, vm string) {
	for name, o := range h.kernel {
		if o.kind == kind && o.vm == vm {
			delete(h.kernel, name)
		}
	}
}

// Plant makes a stranger's object. A second one of the name is refused, as the
// kernel would.
func (h *Host) Plant(kind, name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, taken := h.kernel[name]; taken {
		return fmt.Errorf("%s exists", name)
	}
	h.kernel[name] = object{kind: kind}
	return nil
}

// Unplug removes an object by its name alone, whoever's it is by now: the deed
// of a driver that trusts a name in a record.
func (h *Host) Unplug(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o, ok := h.kernel[name]; ok && o.vm == "" && name != baseName {
		h.crimes = append(h.crimes, "removed a stranger's "+o.kind)
	}
	delete(h.kernel, name)
}

// Networks is a banger.Networks on the fake host.
type Networks struct{ l *Life }

// Networks returns this life's.
func (l *Life) Networks() *Networks { return &Networks{l} }

// Allocate hands out 10.0.0.2 to 10.0.255.255. It touches nothing, so that nobody
// dies of it.
func (n *Networks) Allocate(taken []banger.NetConfig) (banger.NetConfig, error) {
	used := map[string]bool{}
	for _, t := range taken {
		used[t.Address] = true
	}
	for i := 2; i < 1<<16; i++ {
		if a := fmt.Sprintf("10.0.%d.%d/16", i>>8, i&0xff); !used[a] {
			return banger.NetConfig{Mode: banger.NetBridge, Address: a, Gateway: "10.0.0.1"}, nil
		}
	}
	return banger.NetConfig{}, banger.Errorf(banger.CodeUnavailable, "every address of 10.0.0.0/16 is taken")
}

// Set is the step "set tap", after the pause "set".
func (n *Networks) Set(ctx context.Context, link banger.Link) (banger.Handles, error) {
	h := n.l.host
	tap := "bgr" + link.VM
	if err := n.l.wait(ctx, link.VM, "set"); err != nil {
		return banger.Handles{}, err
	}
	err := errors.Join(ctx.Err(), n.l.step(link.VM, "set tap", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if o, taken := h.kernel[tap]; taken && o.vm != link.VM {
			return banger.Errorf(banger.CodeConflict, "%s isn't ours", tap)
		}
		h.need("tap", tap, link.VM)
		return nil
	}))
	if err != nil {
		return banger.Handles{}, err
	}
	return banger.Handles{Tap: tap}, nil
}

// CleanUp is the step "clean up tap".
func (n *Networks) CleanUp(_ context.Context, id string, held banger.Handles) (banger.Handles, error) {
	h := n.l.host
	left := held
	err := n.l.step(id, "clean up tap", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.drop("tap", id) // a stranger's isn't the VM's
		left.Tap = ""
		return nil
	})
	return left, err
}

package names

import (
	"slices"

	"banger"
)

// Ports are the host's, as its VMs share them.
type Ports struct {
	Host banger.HostPorts // nil: none are published
	VMs  []banger.VM      // that there are: each has its ports whether it runs or not
}

// Choose returns the ports of the VM with this id, with a port of the host for each. Those of was are its
// already.
func (h Ports) Choose(id string, ports, was []banger.Published) ([]banger.Published, error) {
	if len(ports) == 0 {
		return nil, nil
	}
	if h.Host == nil {
		return nil, banger.Errorf(banger.CodeInvalid, "this daemon publishes no ports")
	}
	var others []banger.Published
	for _, vm := range h.VMs {
		if vm.ID == id || vm.State == banger.Deleting {
			continue
		}
		for _, p := range vm.Spec.Ports {
			if slices.ContainsFunc(ports, p.Clashes) {
				return nil, h.reserved(vm, p)
			}
			others = append(others, p)
		}
	}
	chosen := slices.Clone(ports)
	for i, p := range ports {
		if slices.Contains(was, p) {
			continue
		}
		own := slices.Delete(slices.Clone(chosen), i, i+1)
		var err error
		chosen[i], err = h.Host.Free(p, func(q banger.Published) bool {
			return slices.ContainsFunc(others, q.Clashes) || slices.ContainsFunc(own, q.Clashes)
		})
		if err != nil {
			return nil, err
		}
	}
	return chosen, nil
}

// reserved is the error of a port that another VM has.
func (h Ports) reserved(vm banger.VM, p banger.Published) error {
	err := banger.Errorf(banger.CodeConflict, "port %d of this host is vm %s's", p.Port, vm.Spec.Name)
	any := p
	any.Port = 0
	free, ferr := h.Host.Free(any, func(banger.Published) bool { return false })
	if ferr != nil {
		return err
	}
	return err.WithHint("%d is free; `banger vm set --unpublish %d %s` takes the other from that VM", free.Port, p.Guest, vm.Spec.Name)
}

package doctor

import (
	"context"
	"fmt"

	"banger"
)

// Jail is what is known of the jail of VMs that are processes of this host.
type Jail struct {
	Stands      bool
	Found, Mend string
	Landlock    int // the version that the kernel has; 0: none
}

// enoughMaps is what current distributions have as vm.max_map_count.
const enoughMaps = 1048576

// isolation looks at what keeps guests from this host: whether a jail stands, and what a guest
// that is a process can have here.
func isolation(ctx context.Context, h *Host, r *banger.Report) {
	r.Drivers = append(r.Drivers, choice("isolation", string(h.Isolation), h.Why))
	j, err := h.Jail(ctx)
	c := banger.Check{Name: "jail", Level: banger.LevelOK, Found: j.Found, Mend: j.Mend}
	switch {
	case err != nil:
		c.Level, c.Found, c.Means = banger.LevelNote, "it could not be judged: "+err.Error(), "there is no isolation process"
	case !j.Stands:
		c.Level, c.Means = banger.LevelNote, "there is no isolation process"
	case j.Landlock == 0:
		c.Means = "VMs may run as processes in it; this kernel has no Landlock, which is one wall less"
	default:
		c.Means = fmt.Sprintf("VMs may run as processes in it, with all walls (Landlock version %d)", j.Landlock)
	}
	if c.Level == banger.LevelNote && h.Isolation == banger.ByEmulation {
		c.Level, c.Means = banger.LevelWarn, "VMs are emulated, which is many times slower than running them as processes in a jail"
	}
	r.Add(c)
	if h.Maps > 0 && h.Maps < enoughMaps && h.Isolation != banger.ByHardware && j.Stands {
		r.Add(check("mappings", banger.LevelWarn, fmt.Sprintf("vm.max_map_count is %d", h.Maps),
			fmt.Sprintf("a VM that is a process gets up to %d MiB of memory here unless --isolation process asks for more; a program in it that touches more than %d MiB in random order is killed", h.Carries, h.Maps>>8),
			fmt.Sprintf("echo vm.max_map_count=%d | sudo tee /etc/sysctl.d/60-banger.conf && sudo sysctl -p /etc/sysctl.d/60-banger.conf", enoughMaps)))
	}
}

// userMode is User-mode Linux among the hypervisors.
func userMode(ctx context.Context, h *Host) banger.KnownHypervisor {
	u := banger.KnownHypervisor{Name: "uml", Path: "kernel " + h.ProcessKernel}
	switch j, err := h.Jail(ctx); {
	case err != nil:
		u.Missing = err.Error()
	case !j.Stands:
		u.Missing = j.Found
	}
	return u
}

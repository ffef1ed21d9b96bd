package engine

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"banger"
	"banger/daemon/engine/names"
)

// fill fills in defaults.
func (d Defaults) fill(s banger.Spec) banger.Spec {
	s.Hypervisor, s.DiskDriver = cmp.Or(s.Hypervisor, d.Hypervisor), cmp.Or(s.DiskDriver, d.Disk)
	s.Image, s.Kernel, s.Net = cmp.Or(s.Image, d.Image), cmp.Or(s.Kernel, d.Kernel), cmp.Or(s.Net, d.Net)
	s.VCPU, s.MemoryMiB, s.DiskMiB = cmp.Or(s.VCPU, d.VCPU), cmp.Or(s.MemoryMiB, d.MemoryMiB), cmp.Or(s.DiskMiB, d.DiskMiB)
	return s
}

func (h Host) validate(s banger.Spec) error {
	between := func(what string, n, lowest, highest int, flag string) error {
		if n >= lowest && n <= highest {
			return nil
		}
		return banger.Errorf(banger.CodeInvalid, "%s must be between %d and %d, not %d", what, lowest, highest, n).
			WithHint("set it with %s", flag)
	}
	if s.Name != "" && !label.MatchString(s.Name) {
		return banger.Errorf(banger.CodeInvalid, "%q can't be a VM's name", s.Name).
			WithHint("use 1 to 63 of a-z, 0-9 and -, with no - first or last")
	}
	if _, err := h.mode(s.Net); err != nil {
		return err
	}
	if s.Isolation != "" && !slices.Contains(banger.Isolations(), s.Isolation) {
		return banger.Errorf(banger.CodeInvalid, "there is no isolation %.40q: there are hardware, process and emulated", s.Isolation)
	}
	if h.Hypervisors[s.Hypervisor] == nil {
		return banger.Errorf(banger.CodeInvalid, "there is no hypervisor %q on this host", s.Hypervisor)
	}
	if _, err := h.disk(banger.VM{Spec: s}); err != nil {
		return err
	}
	if w := s.Workspace; w != "" && (!strings.HasPrefix(w, "/") || len(w) > 4096 || strings.ContainsRune(w, 0)) {
		return banger.Errorf(banger.CodeInvalid, "workspace %q isn't an absolute path of at most 4096 bytes", w)
	}
	if err := names.CheckLabels(s.Labels); err != nil {
		return err
	}
	return cmp.Or(
		between("the number of CPUs", s.VCPU, 1, banger.MaxVCPU, "--vcpu"),
		between("memory in MiB", s.MemoryMiB, banger.MinMemoryMiB, banger.MaxMemoryMiB, "--memory"),
		between("the disk's MiB per second", s.Limits.DiskMiB, 0, banger.MaxLimit, "--disk-rate"),
		between("the disk's requests per second", s.Limits.DiskOps, 0, banger.MaxLimit, "--disk-ops"),
		between("the network's MiB per second", s.Limits.NetMiB, 0, banger.MaxLimit, "--net-rate"),
		between("the time to live in ms", int(s.TTLMS), 0, banger.MaxTTLMS, "--ttl"),
		between("the time without use in ms", int(s.IdleStopMS), 0, banger.MaxTTLMS, "--idle-stop"),
		between("disk size in MiB", s.DiskMiB, banger.MinDiskMiB, banger.MaxDiskMiB, "--disk-size"),
	)
}

// label is a DNS label (RFC 1123 section 2.1) in lower case. Other names are refused, not
// changed.
var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// room returns an error if the host hasn't enough free memory for a guest: the host's OOM
// killer might end processes of others.
func (h Host) room(s banger.Spec) error {
	if h.MemoryMiB == nil {
		return nil
	}
	if free := h.MemoryMiB(); free > 0 && s.MemoryMiB > free {
		return banger.Errorf(banger.CodeUnavailable, "the VM wants %d MiB of memory, the host has %d MiB available", s.MemoryMiB, free).
			WithHint("ask for less with --memory, or stop another VM")
	}
	return nil
}

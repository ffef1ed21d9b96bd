// Package isolation chooses what a VM runs on: which isolation and hypervisor, and the kernel,
// CPUs and memory that go with them. It owns the rules: what was named is taken or refused, never
// exchanged; what was left open is the strongest that works here and can do what the VM asks for.
//
// It knows nothing of how KVM is probed, a jail is tried or a hypervisor found: the host is
// passed in.
package isolation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"banger"
)

// Host is what choices depend on. Its fields are set before use and never change.
type Host struct {
	// KVM, Firecracker, QEMU and Jail say why the one can't be used; nil: it can.
	KVM                     error
	Firecracker, QEMU, Jail func(context.Context) error
	// Maps is how many mappings a process may have (vm.max_map_count); 0: not known.
	Maps int

	// Isolation and Hypervisor are what config.toml says; "auto": nothing.
	Isolation, Hypervisor string
	// Kernel is the kernel of VMs that name none, ProcessKernel of those with isolation process.
	Kernel, ProcessKernel string
	// Program reports whether a kernel, by its name or id, is a program.
	Program func(ctx context.Context, kernel string) bool
	// Sizes are the CPUs, and the memory in MiB, of a VM that doesn't say.
	Sizes func(ctx context.Context, by banger.Isolation, hypervisor string) (vcpu, memoryMiB int)

	// Last is a file that keeps what VMs get as a rule, so that a change can be told.
	Last string
}

// The names of drivers.
const (
	qemu        = "qemu"
	firecracker = "firecracker"
	uml         = "uml"
)

// allowed are the drivers of each isolation. The first is taken where nothing else decides.
var allowed = map[banger.Isolation][]string{
	banger.ByHardware: {qemu, firecracker}, banger.ByEmulation: {qemu}, banger.ByProcess: {uml},
}

// Usual is what VMs get that ask for nothing, and why.
func (h *Host) Usual(ctx context.Context) (by banger.Isolation, hypervisor, why string) {
	s, why, err := h.auto(ctx, h.configured(banger.Spec{}))
	if err != nil {
		why = err.Error()
	}
	return s.Isolation, s.Hypervisor, why
}

// Choose is Settle, and says once that VMs are isolated in another way than before.
func (h *Host) Choose(ctx context.Context, s banger.Spec) (chosen banger.Spec, note string, err error) {
	chosen, note, err = h.Settle(ctx, s)
	open := h.configured(s)
	if by, _, why := h.Usual(ctx); err == nil && note == "" && open.Isolation == "" && open.Hypervisor == "" && by == chosen.Isolation {
		note = h.changed(by, why)
	}
	return chosen, note, err
}

// Settle fills in what a spec leaves open of isolation, hypervisor, kernel, CPUs and memory. note
// is for a person: why this VM isn't isolated as others are. CodeInvalid and CodeUnavailable: what
// was named isn't to be had here.
func (h *Host) Settle(ctx context.Context, s banger.Spec) (chosen banger.Spec, note string, err error) {
	open := h.configured(s)
	if open.Isolation == "" && open.Hypervisor == "" && s.Kernel != "" && h.Program(ctx, s.Kernel) {
		open.Isolation = banger.ByProcess
	}
	if open.Isolation != "" || open.Hypervisor != "" {
		if s, err = h.named(ctx, open); err != nil {
			return s, "", err
		}
		if s.Isolation == banger.ByProcess && !h.carries(cmp.Or(s.MemoryMiB, 1)) {
			note = h.crowded(s.MemoryMiB) + "; `sysctl -w vm.max_map_count=1048576` as root mends that"
		}
		return h.filled(ctx, s), note, nil
	}
	var why string
	if s, why, err = h.auto(ctx, open); err != nil {
		return s, "", err
	}
	if by, _, _ := h.Usual(ctx); by != s.Isolation {
		note = fmt.Sprintf("this VM has isolation %s and not %s, as it asks for what %s hasn't got: %s", s.Isolation, by, by, why)
	}
	return h.filled(ctx, s), note, nil
}

// configured fills in what config.toml says, for a spec that says nothing.
func (h *Host) configured(s banger.Spec) banger.Spec {
	if s.Isolation == "" && s.Hypervisor == "" {
		if h.Isolation != "auto" {
			s.Isolation = banger.Isolation(h.Isolation)
		}
		if h.Hypervisor != "auto" {
			s.Hypervisor = h.Hypervisor
		}
	}
	return s
}

// named completes a spec that names an isolation, a hypervisor or both.
func (h *Host) named(ctx context.Context, s banger.Spec) (banger.Spec, error) {
	switch {
	case s.Isolation == "" && s.Hypervisor == uml:
		s.Isolation = banger.ByProcess
	case s.Isolation == "" && (s.Hypervisor == firecracker || s.Hypervisor == qemu && h.KVM == nil):
		s.Isolation = banger.ByHardware
	case s.Isolation == "" && s.Hypervisor == qemu:
		s.Isolation = banger.ByEmulation
	case s.Isolation == "":
		return s, banger.Errorf(banger.CodeInvalid, "there is no hypervisor %.40q", s.Hypervisor).WithHint("there are firecracker, qemu and uml; `banger hypervisor list` says which of them this host has")
	}
	drivers := allowed[s.Isolation]
	if drivers == nil {
		return s, banger.Errorf(banger.CodeInvalid, "there is no isolation %.40q", s.Isolation).WithHint("there are hardware, emulated and process; auto leaves the choice to banger")
	}
	if s.Hypervisor == "" {
		s.Hypervisor = drivers[0]
		if s.Isolation == banger.ByHardware && h.Firecracker(ctx) == nil {
			s.Hypervisor = firecracker
		}
	}
	if !slices.Contains(drivers, s.Hypervisor) {
		return s, banger.Errorf(banger.CodeInvalid, "the hypervisor %s doesn't give isolation %s", s.Hypervisor, s.Isolation).
			WithHint("it comes with %s: leave out the isolation or the hypervisor", strings.Join(drivers, " or "))
	}
	return s, h.can(ctx, s)
}

// can returns an error if a VM can't have the isolation that its spec names.
func (h *Host) can(ctx context.Context, s banger.Spec) error {
	unavailable := func(err error, hint string) error {
		if e, ok := errors.AsType[*banger.Error](err); ok && e.Hint != "" {
			hint += "; or mend this: " + e.Hint
		}
		return banger.Errorf(banger.CodeUnavailable, "isolation %s doesn't work on this host: %w", s.Isolation, err).WithHint("%s", hint)
	}
	switch s.Isolation {
	case banger.ByHardware:
		if h.KVM != nil && s.Hypervisor == qemu {
			return unavailable(h.KVM, "--isolation process or emulated needs no KVM; auto takes what works here")
		}
	case banger.ByProcess:
		if err := h.Jail(ctx); err != nil {
			return unavailable(err, "--isolation emulated needs no jail; auto takes what works here")
		}
		if why := h.unfit(ctx, s); why != "" {
			return banger.Errorf(banger.CodeInvalid, "a VM with isolation process can't have that: %s", why).
				WithHint("leave it out, or ask for --isolation emulated, or hardware where KVM works; limits are Firecracker's")
		}
	}
	return nil
}

// auto completes a spec that names nothing.
func (h *Host) auto(ctx context.Context, s banger.Spec) (banger.Spec, string, error) {
	if s.Isolation != "" || s.Hypervisor != "" {
		s, err := h.named(ctx, s)
		return s, "config.toml says so", err
	}
	noKVM := h.KVM
	if noKVM == nil {
		noFirecracker := h.Firecracker(ctx)
		if noFirecracker == nil {
			s.Isolation, s.Hypervisor = banger.ByHardware, firecracker
			return s, "KVM works, and Firecracker is here", nil
		}
		if noKVM = h.QEMU(ctx); noKVM == nil {
			s.Isolation, s.Hypervisor = banger.ByHardware, qemu
			return s, "KVM works; Firecracker isn't used: " + noFirecracker.Error(), nil
		}
	}
	why := ""
	if err := h.Jail(ctx); err != nil {
		why = "no jail stands here: " + err.Error()
	} else if why = h.unfit(ctx, s); why == "" && s.MemoryMiB > 0 && !h.carries(s.MemoryMiB) {
		why = h.crowded(s.MemoryMiB)
	}
	if why == "" {
		s.Isolation, s.Hypervisor = banger.ByProcess, uml
		return s, noKVM.Error() + "; a jail stands here", nil
	}
	s.Isolation, s.Hypervisor = banger.ByEmulation, qemu
	return s, why, nil
}

// unfit says what a VM asks for that User-mode Linux hasn't got; "": nothing.
func (h *Host) unfit(ctx context.Context, s banger.Spec) string {
	switch {
	case s.VCPU > 1:
		return fmt.Sprintf("%d CPUs, as User-mode Linux has one", s.VCPU)
	case s.Limits != (banger.Limits{}):
		return "limits of its disks and its network"
	case s.Net == banger.NetBridge:
		return "the network bridge, as a jail is on none"
	case s.DiskDriver != "" && s.DiskDriver != "file":
		return "disks by " + s.DiskDriver
	case s.Kernel != "" && !h.Program(ctx, s.Kernel):
		return "the kernel " + s.Kernel + ", as User-mode Linux is a kernel itself: " + h.ProcessKernel
	}
	return ""
}

// Carries is how much memory, in MiB, a guest that is a process may have here; 0: no bound is
// known. Its pages are mappings of a file in the guest's processes, and a mapping may be of
// one page. They are of more than four as long as a program doesn't touch its memory in random
// order (docs/isolation.md has figures).
func Carries(maps int) int {
	const pages, step = 4, 256
	return (maps*pages>>8 + step/2) / step * step
}

func (h *Host) carries(mib int) bool { return h.Maps == 0 || mib <= Carries(h.Maps) }

func (h *Host) crowded(mib int) string {
	return fmt.Sprintf("vm.max_map_count is %d here, which is enough for %d MiB of memory and not for %d", h.Maps, Carries(h.Maps), mib)
}

// filled fills in the kernel and the sizes.
func (h *Host) filled(ctx context.Context, s banger.Spec) banger.Spec {
	kernel := h.Kernel
	if s.Isolation == banger.ByProcess {
		kernel = h.ProcessKernel
	}
	vcpu, memory := h.Sizes(ctx, s.Isolation, s.Hypervisor)
	s.Kernel, s.VCPU, s.MemoryMiB = cmp.Or(s.Kernel, kernel), cmp.Or(s.VCPU, vcpu), cmp.Or(s.MemoryMiB, memory)
	return s
}

// changed says that VMs are isolated in another way than before, once.
func (h *Host) changed(is banger.Isolation, why string) string {
	was, err := os.ReadFile(h.Last)
	if string(was) == string(is) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if os.WriteFile(h.Last, []byte(is), 0o600) != nil || len(was) == 0 {
		return "" // it would be said each time; or VMs were never made here
	}
	return fmt.Sprintf("new VMs now have isolation %s; it was %s. %s. `banger doctor` says more, --isolation names another", is, was, why)
}

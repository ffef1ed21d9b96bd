package isolation_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/daemon/isolation"
)

// host is one with all that there is, but for KVM.
func host(t *testing.T) *isolation.Host {
	t.Helper()
	has := func(context.Context) error { return nil }
	return &isolation.Host{
		KVM: banger.Errorf(banger.CodeUnavailable, "there is no /dev/kvm").WithHint("load it"), Firecracker: func(context.Context) error { return errors.New("needs KVM") },
		QEMU: has, Jail: has, Maps: 1 << 20, Isolation: "auto", Hypervisor: "auto", Kernel: "cloud", ProcessKernel: "uml-kernel",
		Program: func(_ context.Context, kernel string) bool { return kernel == "uml-kernel" },
		Sizes: func(_ context.Context, by banger.Isolation, _ string) (int, int) {
			if by == banger.ByProcess {
				return 1, 512
			}
			return 2, 1024
		},
		Last: filepath.Join(t.TempDir(), "last"),
	}
}

func withKVM(h *isolation.Host)         { h.KVM = nil }
func withFirecracker(h *isolation.Host) { h.KVM, h.Firecracker = nil, h.QEMU }
func withoutJail(h *isolation.Host) {
	h.Jail = func(context.Context) error {
		return banger.Errorf(banger.CodeUnavailable, "no namespaces").WithHint("see sysctl")
	}
}

func TestChoose(t *testing.T) {
	limits := banger.Limits{NetMiB: 1}
	for name, c := range map[string]struct {
		on   []func(*isolation.Host)
		spec banger.Spec
		want string // isolation, hypervisor, kernel
		note string
	}{
		"KVM":                     {[]func(*isolation.Host){withKVM}, banger.Spec{}, "hardware qemu cloud", ""},
		"Firecracker":             {[]func(*isolation.Host){withFirecracker}, banger.Spec{}, "hardware firecracker cloud", ""},
		"Firecracker is usual":    {[]func(*isolation.Host){withFirecracker}, banger.Spec{VCPU: 4}, "hardware firecracker cloud", ""},
		"KVM, nothing to use it":  {[]func(*isolation.Host){withKVM, withoutQEMU}, banger.Spec{}, "process uml uml-kernel", ""},
		"no KVM":                  {nil, banger.Spec{}, "process uml uml-kernel", ""},
		"no KVM, one CPU":         {nil, banger.Spec{VCPU: 1, MemoryMiB: 4096}, "process uml uml-kernel", ""},
		"no KVM and no jail":      {[]func(*isolation.Host){withoutJail}, banger.Spec{}, "emulated qemu cloud", ""},
		"two CPUs":                {nil, banger.Spec{VCPU: 2}, "emulated qemu cloud", "not process, as it asks for what process hasn't got: 2 CPUs"},
		"limits":                  {nil, banger.Spec{Limits: limits}, "emulated qemu cloud", "limits"},
		"a bridge":                {nil, banger.Spec{Net: banger.NetBridge}, "emulated qemu cloud", "bridge"},
		"device-mapper":           {nil, banger.Spec{DiskDriver: "dm-snapshot"}, "emulated qemu cloud", "dm-snapshot"},
		"another kernel":          {nil, banger.Spec{Kernel: "mine"}, "emulated qemu mine", "the kernel mine"},
		"its kernel":              {[]func(*isolation.Host){withKVM}, banger.Spec{Kernel: "uml-kernel"}, "process uml uml-kernel", ""},
		"too much memory":         {[]func(*isolation.Host){few}, banger.Spec{MemoryMiB: 2048}, "emulated qemu cloud", "vm.max_map_count is 65530 here, which is enough for 1024 MiB of memory and not for 2048"},
		"as much as goes":         {[]func(*isolation.Host){few}, banger.Spec{MemoryMiB: 1024}, "process uml uml-kernel", ""},
		"process, by name":        {[]func(*isolation.Host){withKVM}, banger.Spec{Isolation: banger.ByProcess}, "process uml uml-kernel", ""},
		"process, more memory":    {[]func(*isolation.Host){few}, banger.Spec{Isolation: banger.ByProcess, MemoryMiB: 2048}, "process uml uml-kernel", "sysctl -w vm.max_map_count=1048576"},
		"by its driver":           {nil, banger.Spec{Hypervisor: "uml"}, "process uml uml-kernel", ""},
		"emulated, by name":       {[]func(*isolation.Host){withKVM}, banger.Spec{Isolation: banger.ByEmulation}, "emulated qemu cloud", ""},
		"hardware, by name":       {[]func(*isolation.Host){withKVM}, banger.Spec{Isolation: banger.ByHardware}, "hardware qemu cloud", ""},
		"hardware, Firecracker":   {[]func(*isolation.Host){withFirecracker}, banger.Spec{Isolation: banger.ByHardware}, "hardware firecracker cloud", ""},
		"QEMU, by name":           {nil, banger.Spec{Hypervisor: "qemu"}, "emulated qemu cloud", ""},
		"QEMU, by name, with KVM": {[]func(*isolation.Host){withKVM}, banger.Spec{Hypervisor: "qemu"}, "hardware qemu cloud", ""},
		"both":                    {nil, banger.Spec{Hypervisor: "qemu", Isolation: banger.ByEmulation}, "emulated qemu cloud", ""},
		"config says emulated":    {[]func(*isolation.Host){says("emulated", "auto")}, banger.Spec{}, "emulated qemu cloud", ""},
		"config says qemu":        {[]func(*isolation.Host){says("auto", "qemu")}, banger.Spec{}, "emulated qemu cloud", ""},
		"config, and a flag":      {[]func(*isolation.Host){says("emulated", "qemu")}, banger.Spec{Isolation: banger.ByProcess}, "process uml uml-kernel", ""},
	} {
		h := host(t)
		for _, set := range c.on {
			set(h)
		}
		got, note, err := h.Choose(t.Context(), c.spec)
		if is := strings.Join([]string{string(got.Isolation), got.Hypervisor, got.Kernel}, " "); err != nil || is != c.want || !strings.Contains(note, c.note) || (note == "") != (c.note == "") {
			t.Errorf("%s: %q, %q, %v", name, is, note, err)
		}
		if got.VCPU == 0 || got.MemoryMiB == 0 {
			t.Errorf("%s: sizes %d, %d", name, got.VCPU, got.MemoryMiB)
		}
	}
}

func few(h *isolation.Host) { h.Maps = 65530 }

func withoutQEMU(h *isolation.Host) {
	h.QEMU = func(context.Context) error { return errors.New("no qemu") }
}

func says(isolated, hypervisor string) func(*isolation.Host) {
	return func(h *isolation.Host) { h.Isolation, h.Hypervisor = isolated, hypervisor }
}

// What is named and can't be had is refused, with the way out.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		on   func(*isolation.Host)
		spec banger.Spec
		code banger.Code
		want string
	}{
		"no KVM":       {nil, banger.Spec{Isolation: banger.ByHardware}, banger.CodeUnavailable, "isolation hardware doesn't work on this host: there is no /dev/kvm"},
		"no jail":      {withoutJail, banger.Spec{Isolation: banger.ByProcess}, banger.CodeUnavailable, "no namespaces"},
		"no jail, uml": {withoutJail, banger.Spec{Hypervisor: "uml"}, banger.CodeUnavailable, "no namespaces"},
		"two CPUs":     {nil, banger.Spec{Isolation: banger.ByProcess, VCPU: 2}, banger.CodeInvalid, "2 CPUs"},
		"a driver":     {nil, banger.Spec{Hypervisor: "bochs"}, banger.CodeInvalid, `no hypervisor "bochs"`},
		"an isolation": {nil, banger.Spec{Isolation: "none"}, banger.CodeInvalid, `no isolation "none"`},
		"no pair":      {nil, banger.Spec{Isolation: banger.ByProcess, Hypervisor: "qemu"}, banger.CodeInvalid, "qemu doesn't give isolation process"},
		"config":       {says("hardware", "auto"), banger.Spec{}, banger.CodeUnavailable, "isolation hardware"},
	} {
		h := host(t)
		if c.on != nil {
			c.on(h)
		}
		_, _, err := h.Choose(t.Context(), c.spec)
		e, ok := errors.AsType[*banger.Error](err)
		if !ok || e.Code != c.code || !strings.Contains(err.Error(), c.want) || e.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := host(t)
	says("hardware", "auto")(h)
	if by, _, why := h.Usual(t.Context()); by != banger.ByHardware || !strings.Contains(why, "no /dev/kvm") {
		t.Errorf("config.toml wants what can't be had: %s, %q", by, why)
	}
}

// A change of what VMs get is said once, and not to who has never made one or asks what is missing.
func TestChanged(t *testing.T) {
	h := host(t)
	note := func(spec banger.Spec) string {
		t.Helper()
		_, note, err := h.Choose(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		return note
	}
	if got := note(banger.Spec{}); got != "" {
		t.Errorf("the first time: %q", got)
	}
	withoutJail(h)
	if _, got, err := h.Settle(t.Context(), banger.Spec{}); got != "" || err != nil {
		t.Errorf("who asks what is missing: %q, %v", got, err)
	}
	if got := note(banger.Spec{Isolation: banger.ByEmulation}); got != "" {
		t.Errorf("who names one: %q", got)
	}
	if got := note(banger.Spec{}); !strings.Contains(got, "now have isolation emulated; it was process. no jail stands here: no namespaces") {
		t.Errorf("the change: %q", got)
	}
	if got := note(banger.Spec{}); got != "" {
		t.Errorf("once more: %q", got)
	}
}

func TestCarries(t *testing.T) {
	for maps, want := range map[int]int{65530: 1024, 1 << 18: 4096, 1 << 20: 16384, 0: 0} {
		if got := isolation.Carries(maps); got != want {
			t.Errorf("%d: %d, want %d", maps, got, want)
		}
	}
}

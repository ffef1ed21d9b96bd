package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"banger"
	"banger/config"
	"banger/daemon/isolation"
	"banger/host/proc"
	"banger/host/xdg"
	"banger/network/netns"
	"banger/vmm/firecracker"
	"banger/vmm/firecracker/release"
	"banger/vmm/jail"
	"banger/vmm/kvm"
	"banger/vmm/qemu"
	"banger/vmm/qemu/packaged"
	"banger/vmm/shim"
	"banger/vmm/uml"
)

// hypervisors are the drivers. All are there on every host, so that a running VM is
// found again even when its hypervisor was uninstalled.
type hypervisors struct {
	qemu        *qemu.Driver
	firecracker *firecracker.Driver
	uml         *uml.Driver

	choices *isolation.Host
	stands  func(context.Context) (jail.Verdict, error)
	// by, chosen and why are what new VMs get that ask for nothing.
	by          banger.Isolation
	chosen, why string
}

// openHypervisors looks at which hypervisors this host has and chooses the default.
func openHypervisors(ctx context.Context, conf config.Config, dirs xdg.Dirs, shimPath string, probed kvm.Result) hypervisors {
	works := probed.Verdict == kvm.Works
	noKVM := ""
	if !works {
		noKVM = probed.Detail
	}
	binaries := []string{conf.Firecracker}
	if conf.Firecracker == "" {
		installed := release.Installer{Dir: firecrackerDir(dirs)}.Path()
		binaries = []string{installed, "firecracker"}
	}
	room, noRoom := sibling("banger-jail")
	h := hypervisors{stands: stands(room, noRoom, filepath.Join(dirs.Cache, "jail.json"))}
	jailed := func(ctx context.Context) error {
		v, err := h.stands(ctx)
		if err == nil && !v.Stands {
			err = banger.Errorf(banger.CodeUnavailable, "%s", v.Detail).WithHint("%s", v.Hint)
		}
		return err
	}
	h.uml = uml.New(uml.Config{Shim: shimPath, Jail: room, Stands: jailed})
	h.qemu = qemu.New(qemu.Config{Shim: shimPath, CacheDir: dirs.Cache, KVM: works, TSCKHz: probed.TSCKHz, Insecure: conf.InsecureVMM, Fetched: fetchedQEMU(packagedQEMU(conf, dirs))})
	h.firecracker = firecracker.New(firecracker.Config{Binaries: binaries, Shim: shimPath, CacheDir: dirs.Cache, NoKVM: noKVM, Jail: conf.Jailer && os.Getuid() == 0})
	noFirecracker := h.withFirecracker(ctx, shimPath, works)
	h.choices = &isolation.Host{
		Firecracker: func(context.Context) error { return noFirecracker },
		QEMU:        func(context.Context) error { return nil }, // where there is none it is fetched
		Jail:        jailed, Maps: mostMappings(),
		Isolation: conf.Isolation, Hypervisor: conf.Hypervisor, Kernel: conf.DefaultKernel, ProcessKernel: conf.ProcessKernel,
		Program: func(_ context.Context, kernel string) bool { return kernel == conf.ProcessKernel },
		Sizes: func(ctx context.Context, by banger.Isolation, on string) (vcpu, memoryMiB int) {
			return h.sizes(ctx, conf, by, on)
		},
		Last: filepath.Join(dirs.State, "isolation"),
	}
	if !works {
		h.choices.KVM = banger.Errorf(banger.CodeUnavailable, "KVM doesn't work: %s", probed.Detail).WithHint("%s", probed.Hint)
	}
	h.by, h.chosen, h.why = h.choices.Usual(ctx)
	return h
}

// stands returns a function that says, once for all, whether a jail stands.
func stands(program string, missing error, kept string) func(context.Context) (jail.Verdict, error) {
	var mu sync.Mutex
	var known jail.Verdict
	return func(ctx context.Context) (jail.Verdict, error) {
		mu.Lock()
		defer mu.Unlock()
		if missing != nil || known.Program != "" {
			return known, missing
		}
		v, err := jail.Stands(ctx, program, kept)
		if err == nil {
			known = v
		}
		return v, err
	}
}

// kernel is the kernel of VMs that ask for nothing.
func (h hypervisors) kernel(conf config.Config) string {
	if h.by == banger.ByProcess {
		return conf.ProcessKernel
	}
	return conf.DefaultKernel
}

// mostMappings is vm.max_map_count; 0 where it can't be read.
func mostMappings() int {
	text, _ := os.ReadFile("/proc/sys/vm/max_map_count")
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// tell logs what was found and chosen.
func (h hypervisors) tell(log *slog.Logger, conf config.Config, probed kvm.Result) {
	log.Info("hypervisor", "isolation", h.by, "default", h.chosen, "why", h.why, "kvm", probed.Verdict, "detail", probed.Detail, "tsc_khz", probed.TSCKHz)
	if conf.InsecureVMM {
		log.Warn("insecure_vmm is true in config.toml: where a VMM can't have its sandbox, it runs without")
	}
}

func firecrackerDir(dirs xdg.Dirs) string { return filepath.Join(dirs.Data, "firecracker") }

// packagedQEMU is where a QEMU is fetched to. The command line does that, in the same place.
func packagedQEMU(conf config.Config, dirs xdg.Dirs) packaged.Installer {
	return packaged.Installer{Dir: filepath.Join(dirs.Data, "qemu"), From: archive(conf, dirs, "qemu")}
}

// lackingQEMU returns a function that says what a QEMU takes; false: this host has one.
func lackingQEMU(driver *qemu.Driver, i packaged.Installer) func(context.Context) (banger.Missing, bool) {
	return func(ctx context.Context) (banger.Missing, bool) {
		_, _, _, err := driver.Describe(ctx)
		return i.Cost(), err != nil
	}
}

func fetchedQEMU(i packaged.Installer) func() (path string, command []string) {
	return func() (string, []string) {
		in, err := i.Find()
		if err != nil {
			return "", nil
		}
		return in.Path(), in.Command()
	}
}

// withFirecracker says why VMs can't run on Firecracker here; nil: they can.
func (h hypervisors) withFirecracker(ctx context.Context, shimPath string, kvmWorks bool) error {
	if !kvmWorks {
		return errors.New("it needs KVM that works")
	}
	if _, _, err := h.firecracker.Describe(ctx); err != nil {
		return err
	}
	if err := netns.Probe(ctx, shimPath); err != nil {
		return fmt.Errorf("its user network doesn't work here: %w", err)
	}
	return nil
}

// programs are the kinds of processes that run for VMs.
func (h hypervisors) programs(shimPath string) []proc.Program {
	return []proc.Program{h.qemu.Program(), h.firecracker.Program(), h.uml.Program(), shim.Program(shimPath)}
}

func (h hypervisors) drivers() map[string]banger.Hypervisor {
	return map[string]banger.Hypervisor{"qemu": h.qemu, "firecracker": h.firecracker, "uml": h.uml}
}

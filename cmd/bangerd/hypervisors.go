package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"banger"
	"banger/config"
	"banger/host/proc"
	"banger/host/xdg"
	"banger/network/netns"
	"banger/vmm/firecracker"
	"banger/vmm/firecracker/release"
	"banger/vmm/kvm"
	"banger/vmm/qemu"
	"banger/vmm/shim"
)

// hypervisors are the drivers. Both are there on every host, so that a running VM is
// found again even when its hypervisor was uninstalled.
type hypervisors struct {
	qemu        *qemu.Driver
	firecracker *firecracker.Driver
	// chosen is the default for new VMs, and why says why.
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
	h := hypervisors{
		qemu:        qemu.New(qemu.Config{Shim: shimPath, CacheDir: dirs.Cache, KVM: works, TSCKHz: probed.TSCKHz, Insecure: conf.InsecureVMM}),
		firecracker: firecracker.New(firecracker.Config{Binaries: binaries, Shim: shimPath, CacheDir: dirs.Cache, NoKVM: noKVM, Jail: conf.Jailer && os.Getuid() == 0}),
	}
	h.chosen, h.why = h.choose(ctx, conf.Hypervisor, shimPath, works)
	return h
}

// tell logs what was found and chosen.
func (h hypervisors) tell(log *slog.Logger, conf config.Config, probed kvm.Result) {
	log.Info("hypervisor", "default", h.chosen, "why", h.why, "kvm", probed.Verdict, "detail", probed.Detail, "tsc_khz", probed.TSCKHz)
	if conf.InsecureVMM {
		log.Warn("insecure_vmm is true in config.toml: where a VMM can't have its sandbox, it runs without")
	}
}

func firecrackerDir(dirs xdg.Dirs) string { return filepath.Join(dirs.Data, "firecracker") }

func (h hypervisors) choose(ctx context.Context, asked, shimPath string, kvmWorks bool) (name, why string) {
	if asked != "auto" {
		return asked, "config.toml says so"
	}
	if !kvmWorks {
		return "qemu", "Firecracker needs KVM that works"
	}
	if _, _, err := h.firecracker.Describe(ctx); err != nil {
		return "qemu", err.Error()
	}
	if err := netns.Probe(ctx, shimPath); err != nil {
		return "qemu", fmt.Sprintf("Firecracker's user network doesn't work here: %v", err)
	}
	return "firecracker", "it is here, and KVM works"
}

// programs are the kinds of processes that run for VMs.
func (h hypervisors) programs(shimPath string) []proc.Program {
	return []proc.Program{h.qemu.Program(), h.firecracker.Program(), shim.Program(shimPath)}
}

func (h hypervisors) drivers() map[string]banger.Hypervisor {
	return map[string]banger.Hypervisor{"qemu": h.qemu, "firecracker": h.firecracker}
}

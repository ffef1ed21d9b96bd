package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"banger"
	"banger/config"
	"banger/fcrelease"
	"banger/firecracker"
	"banger/kvm"
	"banger/netns"
	"banger/qemu"
	"banger/xdg"
)

// hypervisors are the drivers, both of them on every host: a VM that runs is found
// again whatever became of what it was started with.
type hypervisors struct {
	qemu        *qemu.Driver
	firecracker *firecracker.Driver
	// chosen is the one that VMs get that don't say, and why.
	chosen, why string
}

// openHypervisors looks at what there is and chooses.
func openHypervisors(ctx context.Context, conf config.Config, dirs xdg.Dirs, shimPath string, probed kvm.Result) hypervisors {
	works := probed.Verdict == kvm.Works
	noKVM := ""
	if !works {
		noKVM = probed.Detail
	}
	binaries := []string{conf.Firecracker}
	if conf.Firecracker == "" {
		installed := fcrelease.Installer{Dir: firecrackerDir(dirs)}.Path()
		binaries = []string{installed, "firecracker"}
	}
	h := hypervisors{
		qemu:        qemu.New(qemu.Config{Shim: shimPath, CacheDir: dirs.Cache, KVM: works, TSCKHz: probed.TSCKHz}),
		firecracker: firecracker.New(firecracker.Config{Binaries: binaries, Shim: shimPath, CacheDir: dirs.Cache, NoKVM: noKVM, Jail: conf.Jailer && os.Getuid() == 0}),
	}
	h.chosen, h.why = h.choose(ctx, conf.Hypervisor, shimPath, works)
	return h
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
		return "qemu", fmt.Sprintf("Firecracker's user network can't be had: %v", err)
	}
	return "firecracker", "it is here, and KVM works"
}

// vcpu is how many processors a VM has that doesn't say: 0 asked for means what
// is best here, and a second one that is emulated in turn with the first only
// costs.
func (h hypervisors) vcpu(ctx context.Context, asked int) int {
	if asked > 0 {
		return asked
	}
	if h.chosen == "qemu" {
		if _, _, inTurn, err := h.qemu.Describe(ctx); err == nil && inTurn != "" {
			return 1
		}
	}
	return min(2, runtime.NumCPU())
}

func (h hypervisors) drivers() map[string]banger.Hypervisor {
	return map[string]banger.Hypervisor{"qemu": h.qemu, "firecracker": h.firecracker}
}

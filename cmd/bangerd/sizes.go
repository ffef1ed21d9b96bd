package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"banger"
	"banger/config"
	"banger/daemon/isolation"
)

// Bounds of what a VM gets by the host.
const (
	mostVCPU                   = 4
	leastMemoryMiB, mostMemory = 512, 4096 // MiB
	memoryStep                 = 256       // MiB: what a host has differs a little with its kernel, and templates are of one size
)

// sizes are the CPUs and the memory, in MiB, of a VM that doesn't say. What config.toml
// says goes before what fits this host.
func (h hypervisors) sizes(ctx context.Context, conf config.Config, by banger.Isolation, on string) (vcpu, memoryMiB int) {
	vcpu, memoryMiB = conf.VCPU, conf.MemoryMiB
	if vcpu == 0 {
		vcpu = h.fittingVCPU(ctx, runtime.NumCPU(), by, on)
	}
	if memoryMiB == 0 {
		memoryMiB = fittingMemory(ownMemory("/"))
		if maps := h.choices.Maps; by == banger.ByProcess && maps > 0 {
			memoryMiB = min(memoryMiB, max(leastMemoryMiB, isolation.Carries(maps)))
		}
	}
	return vcpu, memoryMiB
}

// fittingVCPU is all CPUs up to four. A guest that is a process has one. Emulated CPUs cost each
// other more than a third and fourth one give, and where QEMU emulates them in turn, a second one
// only makes a VM slower.
func (h hypervisors) fittingVCPU(ctx context.Context, have int, by banger.Isolation, on string) int {
	switch {
	case by == banger.ByHardware:
		return min(mostVCPU, have)
	case by == banger.ByProcess || on == "qemu" && h.qemu.InTurn(ctx):
		return 1
	}
	return min(2, have)
}

// fittingMemory is an eighth of a host's memory, within bounds. Both are in MiB.
func fittingMemory(have int) int {
	eighth := (have/8 + memoryStep/2) / memoryStep * memoryStep
	return min(mostMemory, max(leastMemoryMiB, eighth))
}

// ownMemory is how much memory, in MiB, the host below root has for us: all it has, or
// what a container's bound allows. 0 where that can't be read.
func ownMemory(root string) int {
	mib := 0
	info, _ := os.ReadFile(root + "/proc/meminfo")
	for line := range strings.Lines(string(info)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			mib = kib >> 10
		}
	}
	// In a container this is the container's group; on a host there is no such file.
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, _ := os.ReadFile(root + path)
		if bound, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && bound > 0 && bound>>20 < int64(mib) {
			mib = int(bound >> 20)
		}
	}
	return mib
}

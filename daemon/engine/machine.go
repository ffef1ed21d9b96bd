package engine

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"path/filepath"

	"banger"
	"banger/guest"
)

// Host has the drivers and directories that machines are made with.
type Host struct {
	Catalog     Catalog
	Hypervisors map[string]banger.Hypervisor       // by driver name
	Disks       map[string]banger.Disks            // by driver name
	Networks    map[banger.NetMode]banger.Networks // by mode; modes that need nothing of the host have none

	Dir       string     // state directory, absolute; VMs live in vms/<id> below it
	RAMDir    string     // where guest memory goes
	MemoryMiB func() int // memory a new guest could get; nil: not asked

	Ports      banger.HostPorts // nil: no ports are published
	Isolations Isolations       // nil: VMs run on Defaults.Hypervisor

	Home func(context.Context) (guest.Home, error) // what guests have of the host's user; nil: nothing
}

// Isolations chooses what VMs run on.
type Isolations interface {
	// Choose fills in what a spec leaves open of isolation, hypervisor, kernel, CPUs and memory.
	// note is for a person, "" is none. An error: what was named isn't to be had.
	Choose(ctx context.Context, s banger.Spec) (chosen banger.Spec, note string, err error)
}

// choose fills in what a VM runs on.
func (h Host) choose(ctx context.Context, s banger.Spec) (banger.Spec, string, error) {
	if h.Isolations == nil {
		return s, "", nil
	}
	return h.Isolations.Choose(ctx, s)
}

// dir is a VM's own directory. Its name is the id, never anything that a user or a guest
// chose.
func (h Host) dir(id string) string { return filepath.Join(h.Dir, "vms", id) }

// disk returns the driver of a VM's disk.
func (h Host) disk(vm banger.VM) (banger.Disks, error) {
	name := cmp.Or(vm.Spec.DiskDriver, "file") // records of older builds name no driver
	if disks := h.Disks[name]; disks != nil {
		return disks, nil
	}
	return nil, banger.Errorf(banger.CodeInvalid, "there is no disk driver %q for this daemon", name).
		WithHint("dm-snapshot needs a daemon that runs as root; file works without")
}

// mode returns the driver of a network mode; nil, without an error, for one that needs none.
func (h Host) mode(m banger.NetMode) (banger.Networks, error) {
	switch n := h.Networks[m]; {
	case n != nil || m == banger.NetUser || m == banger.NetNone:
		return n, nil
	case m == banger.NetBridge:
		return nil, banger.Errorf(banger.CodeInvalid, "the network mode %q isn't available to this daemon", m).
			WithHint("it needs a daemon that runs as root; user works without")
	default:
		return nil, banger.Errorf(banger.CodeInvalid, "there is no network mode %q", m).WithHint("use user, bridge or none")
	}
}

func (h Host) hypervisor(vm banger.VM) (banger.Hypervisor, error) {
	if hv := h.Hypervisors[vm.Spec.Hypervisor]; hv != nil {
		return hv, nil
	}
	return nil, banger.Errorf(banger.CodeUnavailable, "there is no hypervisor %q on this host", vm.Spec.Hypervisor)
}

func dialer(hv banger.Hypervisor, m banger.Machine) guest.Dialer {
	return func(ctx context.Context) (net.Conn, error) { return hv.Dial(ctx, m) }
}

// machine is what a driver needs to find a machine again and end it. It can't fail, so that
// every machine can be ended.
func (h Host) machine(vm banger.VM) banger.Machine {
	return banger.Machine{
		ID: vm.ID, Dir: h.dir(vm.ID), RAMDir: h.RAMDir,
		VCPU: vm.Spec.VCPU, MemoryMiB: vm.Spec.MemoryMiB, Net: network(vm), Limits: vm.Spec.Limits, Insecure: vm.Spec.Insecure, Isolation: vm.Spec.Isolation,
	}
}

// bootable is what a driver needs to start a machine with the disk of that path.
func (h Host) bootable(ctx context.Context, vm banger.VM, disk string) (banger.Machine, error) {
	m := h.machine(vm)
	image, boot, err := h.Catalog.Files(ctx, vm.ImageID, vm.KernelID)
	if err != nil {
		return m, err
	}
	if only := boot.Hypervisor; only != "" && only != vm.Spec.Hypervisor {
		return m, banger.Errorf(banger.CodeInvalid, "only the hypervisor %q runs the kernel %s, not %q", only, vm.Spec.Kernel, vm.Spec.Hypervisor).
			WithHint("choose another one with --kernel: `banger kernel list` lists them")
	}
	m.Kernel, m.Initramfs = boot.Vmlinux, boot.Initramfs
	m.Drives = []banger.Drive{{Serial: serials.Image, Path: image, ReadOnly: true}}
	if boot.Modules != "" {
		m.Drives = append(m.Drives, banger.Drive{Serial: serials.Modules, Path: boot.Modules, ReadOnly: true})
	}
	m.Drives = append(m.Drives, banger.Drive{Serial: serials.Disk, Path: disk})
	return m, nil
}

// attach attaches the VM's disk. If it is attached already, it returns the same again.
func (h Host) attach(ctx context.Context, vm banger.VM) (path string, held banger.Handles, err error) {
	disks, err := h.disk(vm)
	if err != nil {
		return "", held, err
	}
	if path, held, err = disks.Attach(ctx, vm.ID, h.dir(vm.ID)); err != nil {
		err = fmt.Errorf("disk: %w", err)
	}
	return path, held, err
}

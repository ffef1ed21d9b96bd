package engine

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net"

	"banger"
	"banger/guest"
)

var serials = guest.DriveSerials{Image: "image", Modules: "modules", Disk: "disk"}

// network is the guest's side of its network. The user network is the VM's
// own, so every VM has the same addresses on it; those on a shared one were
// allocated.
func network(vm banger.VM) banger.NetConfig {
	if vm.Spec.Net != banger.NetUser {
		n := vm.Net
		n.Mode, n.Tap = vm.Spec.Net, vm.Held.Tap
		if n.Address != "" {
			n.MAC = mac(vm.ID)
		}
		return n
	}
	return banger.NetConfig{
		Mode: banger.NetUser, MAC: mac(vm.ID),
		Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: "10.0.2.3",
	}
}

// mac makes a MAC of the last ten digits of an id; it is locally administered and unicast
// (02, IEEE 802 clause 8.2).
func mac(id string) string {
	last, _ := hex.DecodeString(id[len(id)-10:]) // an id has only hex digits
	return net.HardwareAddr(append([]byte{2}, last...)).String()
}

// identity returns the identity of a VM for its guest. The entropy is new each time; the
// time is filled in when it is sent.
func (h Host) identity(ctx context.Context, vm banger.VM) (guest.Identity, error) {
	kernel, err := h.Catalog.KernelVersion(ctx, vm.KernelID)
	id := guest.Identity{
		ID: vm.ID, Hostname: vm.Spec.Name, MachineID: machineID(vm.ID),
		Entropy: make([]byte, 64), Drives: serials, KernelVersion: kernel,
		NoInit: vm.Spec.NoInit, NeedInit: vm.Spec.NeedInit,
	}
	_, _ = rand.Read(id.Entropy) // never fails (crypto/rand)
	if n := network(vm); n.Address != "" {
		id.Net = &guest.NetIdentity{MAC: n.MAC, Address: n.Address, Gateway: n.Gateway, DNS: n.DNS}
	}
	if h.Home != nil && err == nil {
		var home guest.Home
		home, err = h.Home(ctx)
		id.Home = &home
	}
	return id, err
}

// machineID follows machine-id(5): 32 hex digits that say nothing about what
// they were derived from.
func machineID(id string) string {
	sum := sha256.Sum256([]byte("banger machine-id " + id))
	return hex.EncodeToString(sum[:16])
}

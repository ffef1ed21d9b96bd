package engine

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"

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

// mac is locally administered and unicast (02, IEEE 802 clause 8.2) and differs
// as the last ten digits of the ids do.
func mac(id string) string {
	var b strings.Builder
	b.WriteString("02")
	for i := len(id) - 10; i < len(id); i += 2 {
		b.WriteString(":" + id[i:i+2])
	}
	return b.String()
}

// identity makes a booted guest this VM. Its entropy is fresh each time; the time
// is left to whoever sends it.
func identity(vm banger.VM, kernel string) guest.Identity {
	id := guest.Identity{
		ID: vm.ID, Hostname: vm.Spec.Name, MachineID: machineID(vm.ID),
		Entropy: make([]byte, 64), Drives: serials, KernelVersion: kernel,
		NoInit: vm.Spec.NoInit,
	}
	_, _ = rand.Read(id.Entropy) // never fails (crypto/rand)
	if n := network(vm); n.Address != "" {
		id.Net = &guest.NetIdentity{MAC: n.MAC, Address: n.Address, Gateway: n.Gateway, DNS: n.DNS}
	}
	return id
}

// machineID follows machine-id(5): 32 hex digits that say nothing about what
// they were derived from.
func machineID(id string) string {
	sum := sha256.Sum256([]byte("banger machine-id " + id))
	return hex.EncodeToString(sum[:16])
}

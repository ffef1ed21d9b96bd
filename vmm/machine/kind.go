package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"banger"
	"banger/host/proc"
)

var release = proc.KernelRelease // a test has another

// Kind digests what a machine must have in common with the template that it is
// restored from (banger.Capturer), into hex digits, with what is the hypervisor's
// own: its build, the command line, how it describes machines; plain data. Paths and
// serials of drives aren't among it, for the guest looks at them only later; nor is
// the machine's MAC, which the guest is told.
func Kind(m banger.Machine, own any) (string, error) {
	of := struct {
		Own             any
		VCPU, MemoryMiB int
		Files           []string
		ReadOnly        []bool // of each drive
		Net             banger.NetMode
		Host            string // its kernel's release: what it makes of KVM's state changes with it
	}{Own: own, VCPU: m.VCPU, MemoryMiB: m.MemoryMiB, Net: m.Net.Mode}
	var err error
	if of.Host, err = release(); err != nil {
		return "", err
	}
	for _, path := range []string{m.Kernel, m.Initramfs} {
		f, err := stat(path)
		if err != nil {
			return "", err
		}
		of.Files = append(of.Files, fmt.Sprintf("%s %d %d", path, f.Size, f.ModTime))
	}
	for _, drive := range m.Drives {
		of.ReadOnly = append(of.ReadOnly, drive.ReadOnly)
	}
	raw, err := json.Marshal(of)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

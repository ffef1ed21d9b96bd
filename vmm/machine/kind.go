// Package kind digests what a machine must have in common with the template that
// it is restored from (banger.Capturer): what is so for every hypervisor. It
// refuses to know any of them: what else they keep in a template they say
// themselves.
package kind

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"

	"banger"
)

// Digest returns the kind of m in hex digits, with what is the hypervisor's own: its
// build, the command line, how it describes machines; plain data. Paths and serials
// of drives aren't among it, for the guest looks at them only later; nor is the
// machine's MAC, which the guest is told. The error is that of a kernel or an
// initramfs that can't be looked at.
func Digest(m banger.Machine, own any) (string, error) {
	of := struct {
		Own             any
		VCPU, MemoryMiB int
		Files           []string
		ReadOnly        []bool // of each drive
		Net             banger.NetMode
	}{Own: own, VCPU: m.VCPU, MemoryMiB: m.MemoryMiB, Net: m.Net.Mode}
	for _, path := range []string{m.Kernel, m.Initramfs} {
		st, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		of.Files = append(of.Files, fmt.Sprintf("%s %d %d", path, st.Size(), st.ModTime().UnixNano()))
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

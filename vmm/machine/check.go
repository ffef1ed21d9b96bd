package machine

import (
	"os"
	"path/filepath"
	"strings"

	"banger"
)

const (
	idChars     = "abcdefghijklmnopqrstuvwxyz0123456789-"
	serialChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
)

// Check returns CodeInvalid for a machine that no VMM can run, or that has more than drives
// drives. paths are further paths to check.
func Check(m banger.Machine, drives int, paths ...string) error {
	switch {
	case !made(m.ID, idChars, 48):
		return banger.Errorf(banger.CodeInvalid, "machine id %q isn't made of 1 to 48 lower-case letters, digits and hyphens", m.ID)
	case m.VCPU < 1 || m.VCPU > banger.MaxVCPU:
		return banger.Errorf(banger.CodeInvalid, "%d vCPUs are out of bounds: 1 to %d", m.VCPU, banger.MaxVCPU)
	case m.MemoryMiB < banger.MinMemoryMiB || m.MemoryMiB > banger.MaxMemoryMiB:
		return banger.Errorf(banger.CodeInvalid, "%d MiB of memory are out of bounds: %d to %d", m.MemoryMiB, banger.MinMemoryMiB, banger.MaxMemoryMiB)
	case len(m.Drives) > drives:
		return banger.Errorf(banger.CodeInvalid, "%d drives, at most %d fit", len(m.Drives), drives)
	case m.Net.Mode == banger.NetBridge && m.Net.Tap == "": // a VMM might make a TAP of its own
		return banger.Errorf(banger.CodeInvalid, "machine %s: a bridge network without a TAP device", m.ID)
	}
	for _, p := range append(paths, m.Dir, m.Kernel, m.Initramfs) {
		if !filepath.IsAbs(p) {
			return banger.Errorf(banger.CodeInvalid, "machine %s: path %q isn't absolute", m.ID, p)
		}
	}
	for _, d := range m.Drives {
		// A serial may be a drive's name in a file, and stand in a list on the kernel's
		// command line; virtio-blk has 20 bytes for it.
		if !made(d.Serial, serialChars, 20) || !filepath.IsAbs(d.Path) {
			return banger.Errorf(banger.CodeInvalid, "machine %s: drive %q of %q: want a serial of 1 to 20 letters, digits and underscores, and an absolute path", m.ID, d.Serial, d.Path)
		}
	}
	return nil
}

func made(s, of string, most int) bool {
	return s != "" && len(s) <= most && strings.TrimLeft(s, of) == ""
}

// CheckMemory refuses a template's memory file that hasn't the size of the machine's memory:
// a VMM would enlarge a file that is too small, or die later.
func CheckMemory(path string, m banger.Machine) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if want := int64(m.MemoryMiB) << 20; st.Size() != want {
		return banger.Errorf(banger.CodeInvalid, "%s has %d bytes, the machine %d", path, st.Size(), want)
	}
	return nil
}

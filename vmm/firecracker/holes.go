package firecracker

import "fmt"

// hole is a known fault of some versions that matters here.
type hole struct {
	from, below version // the versions that have it
	what        string
}

// holes are from Firecracker's changelog and its security advisories.
var holes = []hole{
	{version{1, 16, 0}, version{1, 17, 0}, "after a pause and resume by its API no new connection to the guest's vsock succeeds; banger doesn't pause VMs that way"},
	{version{0, 0, 0}, version{1, 13, 2}, jailerHole},
	{version{1, 14, 0}, version{1, 14, 1}, jailerHole},
	{version{1, 13, 0}, version{1, 14, 4}, pciHole},
	{version{1, 15, 0}, version{1, 15, 1}, pciHole},
}

const (
	jailerHole = "CVE-2026-1386: its jailer follows symbolic links of local users who can write to the jail's directory, as root; install a newer one"
	pciHole    = "CVE-2026-5747: its PCI devices let a guest's root write out of bounds; banger gives guests none, install a newer one all the same"
)

// Holes returns the known holes of a version, a sentence each.
func Holes(of string) (known []string) {
	var v version
	if n, _ := fmt.Sscanf(of, "%d.%d.%d", &v[0], &v[1], &v[2]); n != len(v) {
		return nil
	}
	for _, h := range holes {
		if !v.before(h.from) && v.before(h.below) {
			known = append(known, h.what)
		}
	}
	return known
}

package kernel

import (
	"strings"

	"banger/fetch/debian"
)

// FindKernel takes what an archive says, with no archive around it, and returns
// where the kernel's package lies.
func FindKernel(text string) (string, error) {
	found := candidates{}
	if err := debian.Stanzas(strings.NewReader(text), found.from("")); err != nil {
		return "", err
	}
	p, err := found.newest(origins["debian-12-cloud"])
	return p.file.Path, err
}

package kernel

import (
	"io"
	"os"
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

// MaxModules is the bound of all modules of a kernel, in bytes.
const MaxModules = maxModules

// Take takes one file of a kernel of which so many bytes of modules are there.
func Take(written int64, root *os.Root, name string, r io.Reader) error {
	c := contents{modules: written}
	return c.take(name, r, root)
}

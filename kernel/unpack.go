package kernel

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"banger/fetch/debian"
	"banger/kernel/kmod"
)

// Bounds of a kernel's package: ten times Debian's largest. In bytes.
const (
	maxEntries = 100_000
	maxBzImage = 128 << 20
	maxConfig  = 4 << 20
	maxLibrary = 32 << 20
	maxModules = 4 << 30 // of all modules, uncompressed
)

// libraryFiles are the files of libraries that a kernel needs which is a program.
var libraryFiles = []string{"usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libc.so.6"}

// contents is what unpack found.
type contents struct {
	version string // of the kernel: uname -r
	vmlinux []byte // uncompressed
	program bool   // the kernel is one, with libraries in lib/
	modules int64  // bytes of modules that were written
}

var versionName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~_-]*$`)

// unpack takes what a kernel needs out of a package. It keeps the kernel, and writes modules
// and configuration below root, as modules/… and config. Modules are stored uncompressed:
// not every modprobe can read compressed ones, and xz is slow in an emulated guest. It
// ignores all else in the package.
func (c *contents) unpack(ctx context.Context, deb string, root *os.Root) error {
	return debian.EachFile(ctx, deb, maxEntries, func(name string, h *tar.Header, r io.Reader) error {
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		return c.take(name, r, root)
	})
}

func (c *contents) take(name string, r io.Reader, root *os.Root) error {
	of, named := strings.CutPrefix(name, "boot/vmlinuz-")
	if named {
		if err := c.setVersion(of); err != nil {
			return err
		}
	}
	if named || kernelFile(name) {
		if c.vmlinux != nil {
			return errors.New("it is the second kernel: one is imported at a time")
		}
		image, err := readAtMost(r, maxBzImage)
		if err != nil {
			return err
		}
		c.vmlinux, err = Vmlinux(image)
		return err
	}
	switch {
	case strings.HasPrefix(name, "boot/config-"), name == "config":
		return store(root, "config", r, maxConfig)
	case name == "usr/share/doc/user-mode-linux/config.gz":
		plain, err := debian.Decompress(".gz", r)
		if err != nil {
			return err
		}
		return store(root, "config", plain, maxConfig)
	case name == "usr/bin/linux.uml":
		program, err := readAtMost(r, maxVmlinux)
		if err != nil {
			return err
		}
		c.program, c.vmlinux = true, program
		return checkKernel(program)
	case slices.Contains(libraryFiles, name):
		name = filepath.Join("lib", path.Base(name))
		if err := store(root, name, r, maxLibrary); err != nil {
			return err
		}
		return root.Chmod(name, 0o755) // the loader is a program, too
	}
	file, ok := strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/")
	if !ok {
		file, ok = strings.CutPrefix(name, "usr/lib/uml/modules/")
	}
	if !ok {
		return nil
	}
	v, file, ok := strings.Cut(file, "/")
	err := c.setVersion(v)
	if err != nil || !ok {
		return err
	}
	if ext := path.Ext(file); strings.HasSuffix(strings.TrimSuffix(file, ext), ".ko") {
		plain, err := debian.Decompress(ext, r)
		if err != nil {
			return err
		}
		r, file = plain, strings.TrimSuffix(file, ext)
	}
	all := &io.LimitedReader{R: r, N: maxModules - c.modules + 1}
	err = store(root, filepath.Join("modules", file), all, kmod.MaxModule)
	if c.modules = maxModules + 1 - all.N; c.modules > maxModules {
		return fmt.Errorf("the modules are larger than %d bytes", int64(maxModules))
	}
	return err
}

func (c *contents) setVersion(v string) error {
	if !versionName.MatchString(v) || c.version != "" && c.version != v {
		return fmt.Errorf("kernel version %.80q where %q was expected", v, c.version)
	}
	c.version = v
	return nil
}

// store writes one file. root keeps the path inside.
func store(root *os.Root, name string, r io.Reader, max int64) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(r, max+1))
	if err == nil && n > max {
		err = fmt.Errorf("larger than %d bytes", max)
	}
	if err != nil {
		return err
	}
	return f.Close()
}

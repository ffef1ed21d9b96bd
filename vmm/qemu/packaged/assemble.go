package packaged

import (
	"archive/tar"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"banger/fetch/debian"
)

// Bounds of a package: ten times Debian's largest of these.
const (
	maxEntries = 20_000
	maxFile    = 300 << 20 // bytes
)

const (
	libraryDir = "usr/lib/x86_64-linux-gnu"
	loaderName = "ld-linux-x86-64.so.2"
)

// images are the firmware files that a microvm reads, with KVM or without.
var images = []string{
	"usr/share/seabios/bios-microvm.bin",
	"usr/share/qemu/qboot.rom", "usr/share/qemu/pvh.bin", "usr/share/qemu/linuxboot_dma.bin", "usr/share/qemu/kvmvapic.bin",
}

// hidden is the library that no program names: the C library loads it when a thread ends.
const hidden = "libgcc_s.so.1"

// assemble makes of packages' files a directory from which QEMU runs.
func assemble(ctx context.Context, debs []string, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := errors.Join(root.Mkdir(libraries, 0o755), root.Mkdir(firmware, 0o755)); err != nil {
		return err
	}
	u := unpacking{root: root, links: map[string]string{}}
	for _, deb := range debs {
		if err := u.unpack(ctx, deb); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
	}
	for _, image := range images {
		if _, err := root.Stat(filepath.Join(firmware, path.Base(image))); err != nil {
			return fmt.Errorf("firmware: %w", err)
		}
	}
	return u.trim()
}

// unpacking takes QEMU's files out of packages.
type unpacking struct {
	root  *os.Root
	links map[string]string // of libraries: what a name stands for
}

func (u *unpacking) unpack(ctx context.Context, deb string) error {
	return debian.EachFile(ctx, deb, maxEntries, u.take)
}

// take keeps a file if it may be needed.
func (u *unpacking) take(name string, h *tar.Header, r io.Reader) error {
	base := path.Base(name)
	isLibrary := strings.Contains(base, ".so") && (path.Dir(name) == libraryDir || path.Dir(name) == "lib/x86_64-linux-gnu")
	if h.Typeflag == tar.TypeSymlink {
		if isLibrary && path.Base(h.Linkname) == h.Linkname { // else the name is missing, which is found out
			u.links[base] = h.Linkname
		}
		return nil
	}
	switch {
	case h.Typeflag != tar.TypeReg:
		return nil
	case name == "usr/bin/"+program:
		return u.store(program, r, 0o755)
	case isLibrary:
		return u.store(filepath.Join(libraries, base), r, 0o644)
	case slices.Contains(images, name):
		return u.store(filepath.Join(firmware, base), r, 0o644)
	}
	return nil
}

// store writes one file. The root keeps its path inside.
func (u *unpacking) store(name string, r io.Reader, mode fs.FileMode) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(r, maxFile+1))
	if err == nil && n > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return errors.Join(err, f.Close())
}

// trim gives each library that the program needs the name by which it is asked for, and removes
// the others. A library that is missing is an error.
func (u *unpacking) trim() error {
	needed := map[string]bool{}
	queue := []string{program, filepath.Join(libraries, u.real(hidden))}
	for len(queue) > 0 {
		next, err := u.needs(queue[0])
		if err != nil {
			return err
		}
		queue = queue[1:]
		for _, name := range next {
			if !needed[name] {
				needed[name] = true
				queue = append(queue, filepath.Join(libraries, u.real(name)))
			}
		}
	}
	needed[hidden] = true
	delete(needed, loaderName)
	if err := u.root.Rename(filepath.Join(libraries, loaderName), loader); err != nil {
		return fmt.Errorf("the loader: %w", err)
	}
	if err := u.root.Chmod(loader, 0o755); err != nil {
		return err
	}
	for name := range needed {
		if real := u.real(name); real != name {
			if err := u.root.Rename(filepath.Join(libraries, real), filepath.Join(libraries, name)); err != nil {
				return fmt.Errorf("the library %s: %w", name, err)
			}
		}
	}
	files, err := fs.ReadDir(u.root.FS(), libraries)
	for _, f := range files {
		if !needed[f.Name()] {
			err = errors.Join(err, u.root.Remove(filepath.Join(libraries, f.Name())))
		}
	}
	return err
}

// real is the file that a library's name stands for.
func (u *unpacking) real(name string) string {
	for range 8 { // links may make a circle
		to, ok := u.links[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

// needs returns the names of the libraries that a program or library asks for.
func (u *unpacking) needs(file string) ([]string, error) {
	f, err := u.root.Open(file)
	if err != nil {
		return nil, fmt.Errorf("a library that QEMU needs: %w", err)
	}
	defer f.Close()
	image, err := elf.NewFile(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return image.ImportedLibraries()
}

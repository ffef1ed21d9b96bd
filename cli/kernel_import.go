package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func kernelImportCommand(a *App) *cobra.Command {
	var name string
	var quiet bool
	cmd := answer(a, &cobra.Command{
		Use:   "import DIR|DEB...",
		Short: "Make a kernel of a Debian package, or of a directory of your own",
		Long: `Makes a kernel of Debian packages (those of one kernel: some distributions have its
modules in a package of their own), or of a directory. That has the kernel as vmlinux,
bzImage or boot/vmlinuz-VERSION, and its modules below lib/modules/VERSION, as "make
modules_install INSTALL_MOD_PATH=DIR" writes them.

Guests need virtio (MMIO, block, network, console), vsock, EROFS, ext4 and overlay, as
modules or built in; the import says which is missing. VMs of "--isolation process" need
a kernel that is a program (linux.uml) instead.

New VMs get the kernel that had a name last; VMs that exist keep theirs.`,
		Example: `  banger kernel import linux-image-6.12.9-amd64_6.12.9-1_amd64.deb
  make modules_install INSTALL_MOD_PATH=$PWD/out && cp vmlinux out/
  banger kernel import --name mine out && banger run --kernel mine`,
		Args: nargs(1, -1),
	}, func(ctx context.Context, args []string) (banger.Kernel, error) {
		files, err := kernelFiles(args)
		if err != nil {
			return banger.Kernel{}, banger.Errorf(banger.CodeInvalid, "%w", err)
		}
		r, w := io.Pipe()
		defer func() { _ = r.Close() }()
		go func() { _ = w.CloseWithError(packFiles(ctx, w, files)) }()
		show := a.progress(quiet)
		defer show.end()
		return a.Kernels().ImportKernel(ctx, name, filepath.Base(args[0]), r, show.event)
	}, func(w *page, k banger.Kernel) { _, _ = fmt.Fprintln(w, k.Name, k.Version) })
	cmd.Flags().StringVar(&name, "name", "", "the kernel's name (default: its version)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// namedFile is a file of the host and its name in a tar.
type namedFile struct{ path, name string }

// kernelFiles are the packages, or the files of a directory that a kernel needs.
func kernelFiles(args []string) (files []namedFile, err error) {
	for _, arg := range args {
		info, err := os.Stat(arg)
		switch {
		case err != nil:
			return nil, err
		case info.IsDir() && len(args) > 1:
			return nil, errors.New("one directory can be imported, or packages")
		case info.IsDir():
			return kernelDir(arg)
		case filepath.Ext(arg) != ".deb":
			return nil, banger.Errorf(banger.CodeInvalid, "%s is no package: its name ends in .deb", arg).
				WithHint("a kernel comes with its modules: give the directory that has both")
		}
		files = append(files, namedFile{arg, filepath.Base(arg)})
	}
	return files, nil
}

// kernelDir finds a kernel's files below a directory, whose names may lead through links:
// lib may be one to usr/lib.
func kernelDir(dir string) (files []namedFile, err error) {
	for _, pattern := range []string{"vmlinux", "vmlinuz", "bzImage", "config", "boot/vmlinuz-*", "boot/config-*", "usr/bin/linux.uml"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return nil, err
			}
			files = append(files, namedFile{path, filepath.ToSlash(name)})
		}
	}
	for _, modules := range []string{"lib/modules", "usr/lib/modules", "usr/lib/uml/modules"} {
		top, err := filepath.EvalSymlinks(filepath.Join(dir, modules))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		n := len(files)
		err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, namedFile{path, modules + filepath.ToSlash(strings.TrimPrefix(path, top))})
			}
			return err
		})
		if err != nil || len(files) > n {
			return files, err
		}
	}
	return nil, banger.Errorf(banger.CodeInvalid, "%s has no lib/modules", dir).
		WithHint("make modules_install INSTALL_MOD_PATH=%s, in the kernel's source, writes it: what is built in stands there, too", dir)
}

// packFiles writes files as a tar that is the same each time.
func packFiles(ctx context.Context, w io.Writer, files []namedFile) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := packNamed(t, f.path, path.Clean(f.name)); err != nil {
			return err
		}
	}
	return t.Close()
}

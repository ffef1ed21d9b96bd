package cli

import (
	"archive/tar"
	"cmp"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func imageImportCommand(a *App) *cobra.Command {
	var name string
	var replace, quiet bool
	var cmd *cobra.Command
	cmd = answer(a, &cobra.Command{
		Use:   "import FILE|DIR|-",
		Short: "Make an image from an OCI image or a tar of a root file system",
		Long: `Makes an image from a file, or from standard input: an archive of one OCI image
("docker save", "podman save", "skopeo copy"), or a tar of a root file system ("docker
export"). Its content says which it is, and how it is compressed. A directory can be an
OCI layout.

Owners, modes, times, links, devices and extended attributes are kept. A path that leads
out of the image's root is refused. A VM of an OCI image runs what docker would run.`,
		Example: `  docker save nginx | banger image import --name nginx -
  banger image import rootfs.tar.gz
  docker export CONTAINER | banger image import --name mine -
  skopeo copy docker://alpine oci:alpine && banger image import alpine`,
		Args: nargs(1, 1),
	}, func(ctx context.Context, args []string) (banger.Image, error) {
		in, source := a.In, "standard input"
		if args[0] != "-" {
			f, err := openImage(ctx, args[0])
			if err != nil {
				return banger.Image{}, banger.Errorf(banger.CodeInvalid, "%w", err)
			}
			defer func() { _ = f.Close() }()
			in, source = f, filepath.Base(args[0])
			if name == "" {
				name = nameOfFile(args[0])
			}
		}
		if name == "" {
			return banger.Image{}, usage(cmd, "an image from standard input needs --name")
		}
		show := a.progress(quiet)
		defer show.end()
		return a.Images().ImportImage(ctx, name, source, replace, in, show.event)
	}, imageName)
	cmd.Flags().StringVar(&name, "name", "", "the image's name (default: the file's)")
	cmd.Flags().BoolVar(&replace, "replace", false, "take the name from the image that has it")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// nameOfFile is a file's name without the suffixes of its format.
func nameOfFile(file string) string {
	name := filepath.Base(file)
	for _, ext := range []string{".gz", ".xz", ".zst", ".tgz", ".txz", ".tar", ".oci"} {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}

// openImage opens a file, or an OCI layout in a directory as one.
func openImage(ctx context.Context, path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || !info.IsDir() {
		return f, err
	}
	_ = f.Close()
	if _, err := os.Stat(filepath.Join(path, "oci-layout")); err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%s is a directory, and no OCI layout: that has a file oci-layout", path).
			WithHint("tar -C %[1]s --numeric-owner --xattrs -c . | banger image import --name NAME - makes an image of a root file system in %[1]s", path)
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(packLayout(ctx, w, path)) }()
	return r, nil
}

// packLayout writes the files of an OCI layout as a tar.
func packLayout(ctx context.Context, w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
	if err != nil {
		return err
	}
	for _, path := range append([]string{filepath.Join(dir, "oci-layout"), filepath.Join(dir, "index.json")}, blobs...) {
		if err := cmp.Or(ctx.Err(), packFile(t, dir, path)); err != nil {
			return err
		}
	}
	return t.Close()
}

func packFile(t *tar.Writer, dir, path string) error {
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	return packNamed(t, path, filepath.ToSlash(name))
}

// packNamed writes a regular file under a name.
func packNamed(t *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	if err = t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: info.Size(), Format: tar.FormatPAX}); err == nil {
		_, err = io.Copy(t, f)
	}
	return err
}

package cli

import (
	"context"
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
		Use:   "import TAR|-",
		Short: "Make an image from a tar of a root file system",
		Long: `Makes an image from a tar of a root file system: a file, or standard input.
It may be compressed. Owners, modes, links, devices and extended attributes
are kept; a tar with a path that leads out of its root is refused.`,
		Example: `  banger image import rootfs.tar.gz
  docker export CONTAINER | banger image import --name mine -`,
		Args: nargs(1, 1),
	}, func(ctx context.Context, args []string) (banger.Image, error) {
		in, source := a.In, "standard input"
		if args[0] != "-" {
			f, err := os.Open(args[0])
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
	for _, ext := range []string{".gz", ".xz", ".zst", ".tgz", ".txz", ".tar"} {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}

package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func imageCommand(a *App) *cobra.Command {
	cmd := group("image", "Build, import, list and delete images")
	cmd.AddCommand(imageBuildCommand(a), imageImportCommand(a), imageListCommand(a), imageShowCommand(a), imageWarmCommand(a), imageDeleteCommand(a), imagePruneCommand(a))
	return cmd
}

func imageImportCommand(a *App) *cobra.Command {
	var name string
	var replace, quiet bool
	cmd := &cobra.Command{
		Use:   "import TAR|-",
		Short: "Make an image of a root file system's tar",
		Long: `Makes an image of a tar of a root file system, from a file or standard input.
It may be compressed. Owners, modes, links, devices and extended attributes
are kept; an archive that would reach outside of its root is refused.`,
		Example: `  banger image import rootfs.tar.gz
  docker export CONTAINER | banger image import --name mine -`,
		Args: nargs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			in, source := a.In, "standard input"
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return banger.Errorf(banger.CodeInvalid, "%w", err)
				}
				defer func() { _ = f.Close() }()
				in, source = f, filepath.Base(args[0])
				if name == "" {
					name = imageName(args[0])
				}
			}
			if name == "" {
				return usage(cmd, "an image from standard input needs --name")
			}
			show := a.progress(quiet)
			img, err := a.Catalog.ImportImage(ctx, name, source, replace, in, show.event)
			show.end()
			if err != nil {
				return err
			}
			return a.print(img, func(w io.Writer) { _, _ = fmt.Fprintln(w, img.Name) })
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the image's name (default: the file's)")
	cmd.Flags().BoolVar(&replace, "replace", false, "take the name from the image that has it")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// imageName is a file's name without what tells its format.
func imageName(file string) string {
	name := filepath.Base(file)
	for _, ext := range []string{".gz", ".xz", ".zst", ".tgz", ".txz", ".tar"} {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}

func imageListCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List images", Example: "  banger image list", Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			images, err := a.Catalog.Images(ctx)
			if err != nil {
				return err
			}
			if images == nil {
				images = []banger.Image{}
			}
			return a.print(images, func(w io.Writer) {
				rows := [][]string{{"NAME", "ID", "SIZE", "ENTRIES", "AGE", "SOURCE"}}
				for _, img := range images {
					rows = append(rows, []string{img.Name, img.ID, formatBytes(img.Size), strconv.Itoa(img.Entries),
						age(time.Since(img.Created)), printable(img.Source, 50)})
				}
				table(w, rows)
			})
		},
	}
}

func imageDeleteCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "delete IMAGE...", Aliases: []string{"rm"}, Short: "Delete images no VM uses", Example: "  banger image delete mine", Args: nargs(1, -1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.removed(deleteAll(ctx, a, args, a.Catalog.DeleteImage))
		},
	}
}

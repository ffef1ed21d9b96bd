package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"banger"
)

// Exported is an image in a file.
type Exported struct {
	Image string `json:"image"`
	File  string `json:"file"` // "-": standard output
	Bytes int64  `json:"bytes"`
}

func imageExportCommand(a *App) *cobra.Command {
	var what banger.Export
	var quiet bool
	cmd := answer(a, &cobra.Command{
		Use: "export IMAGE FILE|-", Short: "Write an image to a file that docker, podman and skopeo read",
		Long: `Writes an image as a tar: an OCI layout, or with --format docker what "docker save"
writes. Layers that came from a registry are the same, byte for byte, while they are in
the cache ("image history" shows that). Otherwise the image becomes one layer.`,
		Example: `  banger image export mine mine.tar && skopeo copy oci-archive:mine.tar docker://localhost:5000/mine
  banger image export --format docker mine - | docker load`,
		Args: nargs(2, 2), ValidArgsFunction: a.completeImages,
	}, func(ctx context.Context, args []string) (Exported, error) {
		what.Image = args[0]
		show := a.progress(quiet)
		defer show.end()
		done, size := Exported{Image: what.Image, File: args[1]}, counter{step: func(int64) {}}
		write := func(w io.Writer) error {
			size.w = w
			return a.Images().ExportImage(ctx, what, &size, show.event)
		}
		if args[1] != "-" {
			err := whole(args[1], write)
			done.Bytes = size.n
			return done, err
		}
		if _, tty := terminal(a.Out); tty {
			return done, banger.Errorf(banger.CodeInvalid, "an image isn't written to a terminal").WithHint("name a file, or pipe it: banger image export %s - | docker load", args[0])
		}
		err := write(a.Out)
		done.Bytes = size.n
		return done, err
	}, func(*page, Exported) {})
	cmd.Flags().StringVar(&what.Format, "format", banger.FormatOCI, "oci: an OCI layout; docker: what docker save writes")
	cmd.Flags().BoolVar(&what.Squash, "squash", false, "as one layer, made of the file system")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

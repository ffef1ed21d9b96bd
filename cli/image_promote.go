package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"banger"
)

func imagePromoteCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use:   "promote IMAGE...",
		Short: "See that images are banger's own copies",
		Long: `Says whether images are banger's own copies, which nothing else on this host changes.
All are: pull, import, build and save copy what they are given, so there is nothing to
promote after them. A file that is no image yet becomes one by "banger image import".`,
		Example: `  banger image promote debian-12`,
		Args:    nargs(1, -1), ValidArgsFunction: a.completeImages,
	}, func(ctx context.Context, refs []string) ([]banger.Image, error) {
		return inTurn(refs, func(ref string) (banger.Image, error) {
			img, err := a.Images().Image(ctx, ref)
			if banger.CodeOf(err) == banger.CodeNotFound {
				if _, here := os.Stat(ref); !errors.Is(here, fs.ErrNotExist) {
					return img, banger.Errorf(banger.CodeNotFound, "%s is a file, and no image", ref).WithHint("banger image import %s", ref)
				}
			}
			return img, err
		})
	}, func(w *page, images []banger.Image) {
		for _, img := range images {
			_, _ = fmt.Fprintf(w, "%s is banger's own: %s in a file of its own (%s)\n", img.Name, formatBytes(img.Size), banger.ShortID(img.ID))
		}
	})
}

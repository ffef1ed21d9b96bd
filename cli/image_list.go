package cli

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func imageListCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List images", Example: "  banger image list", Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Image, error) { return a.Images().Images(ctx) },
		func(w io.Writer, images []banger.Image) {
			rows := [][]string{{"NAME", "ID", "SIZE", "ENTRIES", "AGE", "SOURCE"}}
			for _, img := range images {
				rows = append(rows, []string{img.Name, banger.ShortID(img.ID), formatBytes(img.Size), strconv.Itoa(img.Entries),
					age(time.Since(img.Created)), printable(img.Source, 50)})
			}
			table(w, rows)
		})
}

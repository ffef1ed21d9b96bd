package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func imageListCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List images", Example: "  banger image list", Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Image, error) { return a.Images().Images(ctx) },
		func(w *page, images []banger.Image) {
			var rows [][]string
			for _, img := range images {
				rows = append(rows, []string{img.Name, banger.ShortID(img.ID), formatBytes(img.Size), strconv.Itoa(img.Entries),
					age(time.Since(img.Created)), printable(img.Source, 50)})
			}
			w.table([]column{{title: "NAME", least: 25}, {title: "ID", rank: 2}, {title: "SIZE"}, {title: "ENTRIES", rank: 3}, {title: "AGE", rank: 1}, {title: "SOURCE", rank: 4, least: 20}}, rows)
		})
}

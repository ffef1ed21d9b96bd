package cli

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func imageHistoryCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use: "history IMAGE", Short: "Show the steps by which an image was made",
		Long: `Shows the steps by which an image was made, the last one first: when, by which command,
and how large its layer is in a registry. "cached" is a layer that this host still has as
it was fetched.`,
		Example: "  banger image history alpine", Args: nargs(1, 1), ValidArgsFunction: a.completeImages,
	}, func(ctx context.Context, args []string) ([]banger.ImageStep, error) {
		steps, err := a.Images().ImageHistory(ctx, args[0])
		slices.Reverse(steps)
		return steps, err
	}, func(w *page, steps []banger.ImageStep) {
		var rows [][]string
		for _, s := range steps {
			when, size, layer := "-", "-", "-"
			if !s.Created.IsZero() {
				when = age(time.Since(s.Created))
			}
			if s.Size > 0 {
				size = formatBytes(s.Size)
			}
			if s.Layer != "" {
				layer = printable(s.Layer[:min(len(s.Layer), len("sha256:")+12)], 20)
			}
			if s.Here {
				layer += " cached"
			}
			rows = append(rows, []string{when, size, layer, printable(cmp.Or(s.By, s.Comment, "-"), 300)})
		}
		w.table([]column{{title: "AGE"}, {title: "SIZE"}, {title: "LAYER", rank: 1}, {title: "CREATED BY", least: 20}}, rows)
	})
}

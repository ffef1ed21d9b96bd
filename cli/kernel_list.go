package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func kernelListCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List kernels", Example: "  banger kernel list", Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Kernel, error) { return a.Kernels().Kernels(ctx) },
		func(w *page, kernels []banger.Kernel) {
			var rows [][]string
			for _, k := range kernels {
				rows = append(rows, []string{k.Name, k.ID, k.Version, age(time.Since(k.Created)), printable(k.Source, 60)})
			}
			w.table([]column{{title: "NAME"}, {title: "ID", rank: 2}, {title: "VERSION", least: 20}, {title: "AGE", rank: 1}, {title: "SOURCE", rank: 3, least: 20}}, rows)
		})
}

package cli

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func kernelListCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List kernels", Example: "  banger kernel list", Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Kernel, error) { return a.Kernels().Kernels(ctx) },
		func(w io.Writer, kernels []banger.Kernel) {
			rows := [][]string{{"NAME", "ID", "VERSION", "AGE", "SOURCE"}}
			for _, k := range kernels {
				rows = append(rows, []string{k.Name, k.ID, k.Version, age(time.Since(k.Created)), printable(k.Source, 60)})
			}
			table(w, rows)
		})
}

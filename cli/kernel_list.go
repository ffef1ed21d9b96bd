package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func kernelListCommand(a *App) *cobra.Command {
	var available bool
	cmd := answers(a, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List kernels",
		Long: `Lists the kernels that are here, oldest first. --available lists those that can be
fetched, whether they are here, and what the archive had when it was last looked at.`,
		Example: `  banger kernel list
  banger kernel list --available`, Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Kernel, error) { return a.Kernels().Kernels(ctx) },
		func(w *page, kernels []banger.Kernel) {
			var rows [][]string
			for _, k := range kernels {
				rows = append(rows, []string{k.Name, k.ID, k.Version, age(time.Since(k.Created)), printable(k.Source, 60)})
			}
			w.table([]column{{title: "NAME"}, {title: "ID", rank: 2}, {title: "VERSION", least: 20}, {title: "AGE", rank: 1}, {title: "SOURCE", rank: 3, least: 20}}, rows)
		})
	offers := answers(a, &cobra.Command{}, func(ctx context.Context, _ []string) ([]banger.KernelOffer, error) {
		return a.Kernels().AvailableKernels(ctx)
	}, func(w *page, offers []banger.KernelOffer) {
		var rows [][]string
		for _, o := range offers {
			here := "no"
			switch {
			case o.Behind:
				here = o.Version + ", and the archive has a newer one"
			case o.ID != "":
				here = o.Version
			}
			rows = append(rows, []string{o.Name, here, formatBytes(o.Download), o.Release + " " + o.Package, printable(o.Source, 60)})
		}
		w.table([]column{{title: "NAME"}, {title: "HERE", least: 10}, {title: "DOWNLOAD", rank: 1}, {title: "PACKAGE", rank: 2, least: 20}, {title: "SOURCE", rank: 3, least: 20}}, rows)
	})
	cmd.Flags().BoolVar(&available, "available", false, "list the kernels that can be fetched")
	return or(a, cmd, &available, "with --available", offers)
}

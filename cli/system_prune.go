package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func systemPruneCommand(a *App) *cobra.Command {
	var p pruneFlags
	var opt banger.PruneOptions
	cmd := answers(a, &cobra.Command{
		Use:   "prune",
		Short: "Free space: delete what no VM uses and can be fetched or made again",
		Long: `Deletes, after asking, what no VM uses and can be fetched or made again: kept
downloads, images that were built, kernels. Without --all the default image and kernel
and their templates stay. Imported images always stay ("banger image prune" deletes
those), and so do VMs ("banger vm prune" deletes stopped ones). Downloads stay while
something is being fetched.`,
		Example: `  banger system prune --dry-run
  banger system prune --all -f
  banger system prune --dry-run --json | jq '[.results[].bytes] | add'`,
		Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Pruned, error) {
		look := opt
		look.DryRun = true
		list, err := a.System().Prune(ctx, look)
		if err != nil {
			return nil, err
		}
		var bytes int64
		var names []string
		for _, x := range list {
			bytes += x.Bytes
			names = append(names, x.Kind+" "+printable(x.Name, 80))
		}
		if yes, err := p.wants(a, len(list), "delete %s: %s", formatBytes(bytes), strings.Join(names, ", ")); !yes {
			if err != nil {
				list = nil // none of it was touched
			}
			return list, err
		}
		return a.System().Prune(ctx, opt)
	}, listPruned)
	p.add(cmd)
	cmd.Flags().BoolVarP(&opt.All, "all", "a", false, "the default image, if it was built, the default kernel and all templates too")
	return cmd
}

func listPruned(w *page, list []banger.Pruned) {
	var rows [][]string
	for _, x := range list {
		done := "-"
		if x.Removed {
			done = "removed"
		}
		rows = append(rows, []string{x.Kind, banger.ShortID(x.ID), printable(x.Name, 80), formatBytes(x.Bytes), done, printable(x.Detail, 200)})
	}
	w.table([]column{{title: "KIND"}, {title: "ID", rank: 2}, {title: "NAME", least: 20}, {title: "SIZE"}, {title: "DONE"}, {title: "DETAIL", rank: 1, least: 20}}, rows)
}

package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func systemGcCommand(a *App) *cobra.Command {
	var opt banger.CollectOptions
	cmd := answers(a, &cobra.Command{
		Use:   "gc",
		Short: "Remove what no VM owns",
		Long: `Lists files and processes in banger's directories or under its names. Owned ones
belong to a VM and stay. Orphaned ones belong to no VM and are removed; there should
be none. Foreign ones aren't banger's, or are another daemon's, and are never touched.
A directory that holds a disk is only removed with --disks.`,
		Example: `  banger system gc --dry-run
  banger system gc`,
		Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Found, error) { return a.System().Collect(ctx, opt) }, listFound)
	cmd.Flags().BoolVar(&opt.DryRun, "dry-run", false, "only look")
	cmd.Flags().BoolVar(&opt.Disks, "disks", false, "remove orphaned directories that hold a disk, too")
	return cmd
}

func listFound(w *page, found []banger.Found) {
	var rows [][]string
	for _, f := range found {
		done := "-"
		if f.Removed {
			done = "removed"
		}
		rows = append(rows, []string{string(f.Claim), f.Kind, printable(f.Name, 200), orDash(printable(f.VM, 40)), done, printable(f.Detail, 200)})
	}
	w.table([]column{{title: "CLAIM", says: true}, {title: "KIND"}, {title: "NAME", least: 30}, {title: "VM", least: 20}, {title: "DONE"}, {title: "DETAIL", rank: 1, least: 20}}, rows)
}

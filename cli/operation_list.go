package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func operationListCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List operations",
		Long:    "Lists the operations that run and the latest of those that ended since the daemon\nstarted, oldest first.",
		Example: "  banger operation list",
		Args:    nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Operation, error) {
		return a.Operations().Operations(ctx)
	},
		func(w *page, ops []banger.Operation) {
			var rows [][]string
			for _, op := range ops {
				rows = append(rows, []string{op.ID, string(op.Kind), orDash(op.Name), string(op.Status),
					orDash(printable(op.Stage, 40)), age(time.Since(op.Began))})
			}
			w.table([]column{{title: "ID"}, {title: "KIND", rank: 2}, {title: "VM", least: 20}, {title: "STATUS", says: true}, {title: "STAGE", rank: 1, least: 15}, {title: "AGE"}}, rows)
		})
}

package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func templateListCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List templates, the last used first", Example: "  banger template list", Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Template, error) { return a.Templates().Templates(ctx) },
		func(w *page, all []banger.Template) {
			var rows [][]string
			for _, t := range all {
				rows = append(rows, []string{t.ID, orDash(t.Image), t.Kernel, strconv.Itoa(t.VCPU), formatMiB(t.MemoryMiB), string(t.Net),
					formatBytes(t.Bytes), age(time.Since(t.Created)), age(time.Since(t.Used))})
			}
			w.table([]column{{title: "ID"}, {title: "IMAGE", least: 15}, {title: "KERNEL", rank: 3}, {title: "VCPU", rank: 1}, {title: "MEMORY", rank: 1}, {title: "NETWORK", rank: 2}, {title: "SIZE"}, {title: "AGE", rank: 4}, {title: "USED"}}, rows)
		})
}

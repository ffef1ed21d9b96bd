package cli

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func templateListCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List templates, the last used first", Example: "  banger template list", Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Template, error) { return a.Templates().Templates(ctx) },
		func(w io.Writer, all []banger.Template) {
			rows := [][]string{{"ID", "IMAGE", "KERNEL", "VCPU", "MEMORY", "NETWORK", "SIZE", "AGE", "USED"}}
			for _, t := range all {
				rows = append(rows, []string{t.ID, orDash(t.Image), t.Kernel, strconv.Itoa(t.VCPU), formatMiB(t.MemoryMiB), string(t.Net),
					formatBytes(t.Bytes), age(time.Since(t.Created)), age(time.Since(t.Used))})
			}
			table(w, rows)
		})
}

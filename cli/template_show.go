package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func templateShowCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use: "show TEMPLATE", Short: "Show one template", Example: "  banger template show 4f0c", Args: nargs(1, 1),
		ValidArgsFunction: completeTemplates(a),
	}, func(ctx context.Context, args []string) (banger.Template, error) {
		return a.Templates().Template(ctx, args[0])
	}, showTemplate)
}

func showTemplate(w *page, t banger.Template) {
	rows := [][]string{{"id", t.ID}}
	if t.Image != "" {
		rows = append(rows, []string{"image", t.Image}, []string{"after", orDash(t.After)}, []string{"disk", formatMiB(t.DiskMiB)})
	}
	w.fields(append(rows, [][]string{
		{"hypervisor", t.Hypervisor}, {"kernel", t.Kernel}, {"vcpu", strconv.Itoa(t.VCPU)},
		{"memory", formatMiB(t.MemoryMiB)}, {"network", string(t.Net)}, {"size", formatBytes(t.Bytes)},
		{"created", t.Created.Local().Format(time.RFC3339)}, {"used", t.Used.Local().Format(time.RFC3339)},
		{"made in", (time.Duration(t.TookMS) * time.Millisecond).String()},
	}...))
}

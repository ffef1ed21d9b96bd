package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func kernelShowCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use: "show KERNEL", SuggestFor: []string{"inspect"}, Short: "Show a kernel: its version, and where it came from",
		Long: "Shows a kernel by name or id. Of several with one name it is the last, which new VMs get.",
		Example: `  banger kernel show debian-12-cloud
  banger kernel show debian-12-cloud --json | jq -r '.results[0].version'`,
		Args: nargs(1, 1), ValidArgsFunction: a.completeKernels,
	}, func(ctx context.Context, args []string) (banger.Kernel, error) {
		return a.Kernels().Kernel(ctx, args[0])
	},
		func(w *page, k banger.Kernel) {
			runs := "by all hypervisors but uml"
			if k.Hypervisor != "" {
				runs = "by " + k.Hypervisor + " alone"
			}
			rows := [][]string{
				{"name", k.Name}, {"id", k.ID}, {"version", printable(k.Version, 200)}, {"runs", runs},
				{"source", printable(k.Source, 400)}, {"created", k.Created.Local().Format(time.DateTime)},
			}
			if k.Imported {
				rows = append(rows, []string{"imported", "yes: it can't be fetched again"})
			}
			w.fields(rows)
		})
}

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

func kernelPullCommand(a *App) *cobra.Command {
	var quiet, update bool
	cmd := answer(a, &cobra.Command{
		Use:   "pull [KERNEL]",
		Short: "Fetch a distribution's kernel, checked by its signature",
		Long: `Fetches a distribution's kernel, with its security updates, unless it is here. With
--update it fetches the newest, and new VMs get that; VMs that exist keep theirs.
"banger doctor" says when a newer one is known.`,
		Example: `  banger kernel pull
  banger kernel pull --update
  banger kernel pull debian-13-cloud`,
		Args:              nargs(0, 1),
		ValidArgsFunction: a.completeKernels,
	}, func(ctx context.Context, args []string) (banger.Kernel, error) {
		name := ""
		if len(args) == 1 {
			name = args[0]
		}
		show := a.progress(quiet)
		defer show.end()
		return a.Kernels().PullKernel(ctx, name, update, show.event)
	}, func(w *page, k banger.Kernel) { _, _ = fmt.Fprintln(w, k.Name, k.Version) })
	cmd.Flags().BoolVarP(&update, "update", "u", false, "look for a newer one, and fetch it")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

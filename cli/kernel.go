package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func kernelCommand(a *App) *cobra.Command {
	cmd := group("kernel", "Fetch, list and delete kernels")
	cmd.AddCommand(kernelPullCommand(a), kernelListCommand(a), kernelDeleteCommand(a), kernelPruneCommand(a))
	return cmd
}

func kernelPullCommand(a *App) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "pull [KERNEL]",
		Short: "Fetch a distribution's kernel, checked by its signature",
		Example: `  banger kernel pull
  banger kernel pull debian-13-cloud`,
		Args:              nargs(0, 1),
		ValidArgsFunction: a.completeKernels,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			show := a.progress(quiet)
			k, err := a.Catalog.PullKernel(ctx, name, show.event)
			show.end()
			if err != nil {
				return err
			}
			return a.print(k, func(w io.Writer) { _, _ = fmt.Fprintln(w, k.Name, k.Version) })
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func kernelDeleteCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "delete KERNEL...", Aliases: []string{"rm"}, Short: "Delete kernels no VM uses",
		Long:    "Deletes kernels, by name or id, that no VM uses. One that is wanted again is fetched\nagain, in the version that the archive has by then.",
		Example: "  banger kernel delete debian-13-cloud", Args: nargs(1, -1),
		ValidArgsFunction: a.completeKernels,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.removed(deleteAll(ctx, a, args, a.Catalog.DeleteKernel))
		},
	}
}

func kernelListCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List kernels", Example: "  banger kernel list", Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			kernels, err := a.Catalog.Kernels(ctx)
			if err != nil {
				return err
			}
			if kernels == nil {
				kernels = []banger.Kernel{}
			}
			return a.print(kernels, func(w io.Writer) {
				rows := [][]string{{"NAME", "ID", "VERSION", "AGE", "SOURCE"}}
				for _, k := range kernels {
					rows = append(rows, []string{k.Name, k.ID, k.Version, age(time.Since(k.Created)), printable(k.Source, 60)})
				}
				table(w, rows)
			})
		},
	}
}

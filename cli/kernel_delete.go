package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
)

func kernelDeleteCommand(a *App) *cobra.Command {
	return deletes(a, &cobra.Command{
		Use: "delete KERNEL...", Aliases: []string{"rm"}, Short: "Delete kernels no VM uses",
		Long:    "Deletes kernels, by name or id, that no VM uses. When one is needed again, the version\nthat the archive has then is fetched; one that was imported must be imported again.",
		Example: "  banger kernel delete debian-13-cloud", ValidArgsFunction: a.completeKernels,
	}, func(ctx context.Context, ref string) (Removed, error) {
		kernels, err := a.Kernels().Kernels(ctx)
		for _, k := range kernels {
			if k.ID == ref || k.Name == ref || len(ref) >= 4 && strings.HasPrefix(k.ID, ref) {
				return Removed{k.ID, k.Name}, nil
			}
		}
		return Removed{ID: ref}, err // whose deletion says what is wrong with it
	}, func(ctx context.Context, ref string) error { return a.Kernels().DeleteKernel(ctx, ref) })
}

package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func kernelPruneCommand(a *App) *cobra.Command {
	var all bool
	cmd := prunes(a, &cobra.Command{
		Use:   "prune",
		Short: "Delete kernels no VM uses",
		Long: `Deletes the kernels that no VM uses, after asking. Without --all the newest one of
the default name stays, which the next VM needs, and those that were imported, which
can't be fetched again.`,
		Example: `  banger kernel prune --dry-run
  banger kernel prune --all -f`,
	}, func(ctx context.Context) ([]Removed, string, error) {
		kernels, err := a.Kernels().Kernels(ctx) // oldest first
		if err != nil {
			return nil, "", err
		}
		keep, err := inUse(ctx, a, func(vm banger.VM) string { return vm.KernelID })
		if err != nil {
			return nil, "", err
		}
		current := ""
		for _, k := range kernels {
			if k.Name == settings(a).DefaultKernel {
				current = k.ID
			}
		}
		keep[current] = keep[current] || !all
		var spare []Removed
		var names []string
		for _, k := range kernels {
			if !keep[k.ID] && (all || !k.Imported) {
				spare, names = append(spare, Removed{k.ID, k.Name}), append(names, k.Name+" "+k.Version)
			}
		}
		return spare, fmt.Sprintf("delete %d kernels: %s", len(spare), strings.Join(names, ", ")), nil
	}, func(ctx context.Context, spare []Removed) ([]Removed, error) {
		return inTurn(spare, func(it Removed) (Removed, error) { return it, a.Kernels().DeleteKernel(ctx, it.ID) })
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "the default kernel and imported ones, too")
	return cmd
}

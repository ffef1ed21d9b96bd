package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func vmPruneCommand(a *App) *cobra.Command {
	return prunes(a, &cobra.Command{
		Use:   "prune",
		Short: "Delete all stopped VMs",
		Long:  "Deletes all VMs that are stopped, with their disks, after asking. This can't be\nundone.",
		Example: `  banger vm prune --dry-run
  banger vm prune -f`,
	}, func(ctx context.Context) ([]Removed, string, error) {
		vms, err := a.VMs().VMs(ctx)
		var spare []Removed
		var names []string
		for _, vm := range vms {
			if vm.State == banger.Stopped {
				spare, names = append(spare, Removed{vm.ID, vm.Spec.Name}), append(names, vm.Spec.Name)
			}
		}
		return spare, fmt.Sprintf("delete %d stopped VMs with their disks: %s", len(spare), strings.Join(names, ", ")), err
	}, func(ctx context.Context, spare []Removed) ([]Removed, error) {
		var ids []string
		for _, it := range spare {
			ids = append(ids, it.ID)
		}
		return each(ctx, a, ids, func(ctx context.Context, vm banger.VM) (Removed, error) {
			return Removed{vm.ID, vm.Spec.Name}, a.VMs().PruneVM(ctx, vm.ID) // refuses a VM that was started meanwhile
		})
	})
}

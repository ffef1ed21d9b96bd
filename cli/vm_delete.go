package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func vmDeleteCommand(a *App) *cobra.Command {
	cmd := answers(a, &cobra.Command{
		Use:               "delete VM...",
		Aliases:           []string{"rm"},
		SuggestFor:        []string{"remove", "destroy", "terminate"},
		Short:             "Delete VMs with their disks",
		Long:              "Ends VMs, if they run, and deletes all they have, their disks too. This can't be\nundone.",
		Example:           "  banger vm delete web db",
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(0),
	}, func(ctx context.Context, args []string) ([]Removed, error) {
		return each(ctx, a, args, func(ctx context.Context, vm banger.VM) (Removed, error) {
			return Removed{ID: vm.ID, Name: vm.Spec.Name}, a.VMs().DeleteVM(ctx, vm.ID)
		})
	}, removals)
	accept(cmd, "force", "f", "a VM that runs is deleted anyway")
	return cmd
}

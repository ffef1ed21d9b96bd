package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func vmDeleteCommand(a *App) *cobra.Command {
	var force bool
	cmd := answers(a, &cobra.Command{
		Use:        "delete VM...",
		Aliases:    []string{"rm"},
		SuggestFor: []string{"remove", "destroy", "terminate"},
		Short:      "Delete VMs with their disks",
		Long: `Ends VMs, if they run, and deletes all they have, their disks too. This can't be undone.

A VM that has work of a repository that is nowhere else isn't deleted without --force.
A running VM is asked for such work. What a stopped one had was written down when it was
stopped; if it ended in another way nobody knows, and --force is wanted, too. Take work
out with "banger workspace export".`,
		Example:           "  banger vm delete web db",
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(0),
	}, func(ctx context.Context, args []string) ([]Removed, error) {
		return each(ctx, a, args, func(ctx context.Context, vm banger.VM) (Removed, error) {
			if !force {
				if loose := lastWork(ctx, a, vm); loose != "" {
					return Removed{}, banger.Errorf(banger.CodeConflict, "vm %s has work of %s that is nowhere else: %s", vm.Spec.Name, vm.Repository.Path, loose).
						WithHint("`banger workspace export %s --branch NAME` takes it; --force deletes it", vm.Spec.Name)
				}
			}
			return Removed{ID: vm.ID, Name: vm.Spec.Name}, a.VMs().DeleteVM(ctx, vm.ID)
		})
	}, removals)
	cmd.Flags().BoolVarP(&force, "force", "f", false, "delete work, too, that is nowhere else")
	return cmd
}

package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func vmRenameCommand(a *App) *cobra.Command {
	var cmd *cobra.Command
	cmd = answer(a, &cobra.Command{
		Use:     "rename VM NAME",
		Short:   "Give a VM another name",
		Long:    "Gives a VM another name. A running guest keeps its host name until it is restarted.",
		Example: "  banger vm rename swift-otter web",
		Args:    nargs(2, 2), ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) (banger.VM, error) {
		vm, err := a.VMs().VM(ctx, args[0])
		if err != nil {
			return vm, err
		}
		if args[1] == "" {
			return vm, usage(cmd, "a VM needs a name")
		}
		return a.change(ctx, vm, banger.Change{Name: args[1]})
	}, name)
	return cmd
}

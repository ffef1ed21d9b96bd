package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func operationCommand(a *App) *cobra.Command {
	cmd := a.group("operation", "Follow VMs that the daemon makes in the background")
	cmd.Aliases = []string{"op"}
	cmd.Long = `Shows, waits for and cancels what "banger vm create -d" began. An operation goes on
in the daemon after the command that began it has ended. When the daemon ends, a VM
that is still being made is removed; one that was made stays.`
	cmd.AddCommand(operationListCommand(a), operationShowCommand(a), operationWaitCommand(a), operationCancelCommand(a))
	return cmd
}

// oneOperation is a command about one operation.
func oneOperation(a *App, cmd *cobra.Command, do func(ctx context.Context, id string) (banger.Operation, error), show func(*page, banger.Operation)) *cobra.Command {
	cmd.Args = nargs(1, 1)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var ids []string
		if len(args) == 0 {
			ops, _ := a.Operations().Operations(cmd.Context()) // on an error there is nothing to offer
			for _, op := range ops {
				ids = append(ids, op.ID)
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
	return answer(a, cmd, func(ctx context.Context, args []string) (banger.Operation, error) { return do(ctx, args[0]) }, show)
}

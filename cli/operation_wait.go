package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

func operationWaitCommand(a *App) *cobra.Command {
	var quiet bool
	cmd := oneOperation(a, &cobra.Command{
		Use:   "wait OPERATION",
		Short: "Wait until an operation is over",
		Long: `Waits until an operation is over, showing its stages, and prints the VM's name. Its
status is what the command that began the operation would have had without -d. When
it is interrupted, the operation goes on.`,
		Example: "  banger operation wait 4f1d09c2a7be",
	}, func(ctx context.Context, id string) (banger.Operation, error) {
		show := a.progress(quiet)
		op, err := a.Operations().FollowOperation(ctx, id, show.event)
		show.end()
		if err != nil {
			return op, err
		}
		switch op.Status {
		case banger.OperationCanceled:
			return op, banger.Errorf(banger.CodeCanceled, "operation %s was canceled", op.ID)
		case banger.OperationFailed:
			return op, op.Error
		}
		return op, nil
	}, func(w *page, op banger.Operation) { _, _ = fmt.Fprintln(w, op.Name) })
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

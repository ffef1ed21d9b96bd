package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

func operationCancelCommand(a *App) *cobra.Command {
	return oneOperation(a, &cobra.Command{
		Use:     "cancel OPERATION",
		Short:   "Cancel an operation",
		Long:    "Cancels an operation and returns once nothing of its VM remains. One that failed or\nwas canceled before is left as it is.",
		Example: "  banger operation cancel 4f1d09c2a7be",
	}, func(ctx context.Context, id string) (banger.Operation, error) {
		return a.Operations().CancelOperation(ctx, id)
	}, operationID)
}

// operationID prints an operation's id.
func operationID(w *page, op banger.Operation) { _, _ = fmt.Fprintln(w, op.ID) }

package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func operationShowCommand(a *App) *cobra.Command {
	return oneOperation(a, &cobra.Command{
		Use:     "show OPERATION",
		Short:   "Show how far an operation is",
		Long:    "Shows how far an operation is, and if it failed, why.",
		Example: "  banger operation show 4f1d09c2a7be",
	}, func(ctx context.Context, id string) (banger.Operation, error) {
		return a.Operations().Operation(ctx, id)
	}, showOperation)
}

func showOperation(w *page, op banger.Operation) {
	rows := [][]string{{"id", op.ID}, {"kind", string(op.Kind)}, {"status", string(op.Status)}, {"vm", orDash(op.Name)}}
	stage := op.Stage
	if op.Message != "" {
		stage += ": " + op.Message
	}
	if stage != "" {
		rows = append(rows, []string{"stage", printable(stage, 200)})
	}
	rows = append(rows, []string{"began", op.Began.Local().Format(time.RFC3339)})
	if !op.Ended.IsZero() {
		rows = append(rows, []string{"ended", op.Ended.Local().Format(time.RFC3339)})
	}
	if op.Error != nil {
		rows = append(rows, []string{"error", printable(op.Error.Message, 1000)})
		if op.Error.Hint != "" {
			rows = append(rows, []string{"hint", op.Error.Hint})
		}
	}
	w.fields(rows)
}

package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func operationCommand(a *App) *cobra.Command {
	cmd := group("operation", "Follow VMs that are being made by themselves")
	cmd.Aliases = []string{"op"}
	cmd.Long = `Shows, waits for and cancels what "banger vm create -d" began. An operation goes on
in the daemon whatever becomes of the command that began it. When the daemon ends,
a VM that was being made is taken back; one that was made stays.`
	cmd.AddCommand(listOperations(a), showOperation(a), waitOperation(a), cancelOperation(a))
	return cmd
}

func listOperations(a *App) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List operations",
		Long:    "Lists the operations that run, and of those that ended since the daemon started\nthe latest; oldest first.",
		Example: "  banger operation list",
		Args:    nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			ops, err := a.Making.Operations(ctx)
			if err != nil {
				return err
			}
			if ops == nil {
				ops = []banger.Operation{}
			}
			return a.print(ops, func(w io.Writer) {
				rows := [][]string{{"ID", "KIND", "VM", "STATUS", "STAGE", "AGE"}}
				for _, op := range ops {
					rows = append(rows, []string{op.ID, string(op.Kind), orDash(op.Name), string(op.Status),
						orDash(printable(op.Stage, 40)), age(time.Since(op.Began))})
				}
				table(w, rows)
			})
		},
	}
}

func showOperation(a *App) *cobra.Command {
	return oneOperation(a, &cobra.Command{
		Use:     "show OPERATION",
		Short:   "Show how far an operation is",
		Long:    "Shows how far an operation is, and why it failed when it did.",
		Example: "  banger operation show 4f1d09c2a7be",
	}, func(ctx context.Context, id string) error {
		op, err := a.Making.Operation(ctx, id)
		if err != nil {
			return err
		}
		return a.print(op, func(w io.Writer) {
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
			table(w, rows)
		})
	})
}

func waitOperation(a *App) *cobra.Command {
	var quiet bool
	cmd := oneOperation(a, &cobra.Command{
		Use:   "wait OPERATION",
		Short: "Wait until an operation is over",
		Long: `Waits until an operation is over, showing its stages, and prints the VM's name. It
ends as the command that began the operation would have without -d. Interrupted,
it leaves the operation to go on.`,
		Example: "  banger operation wait 4f1d09c2a7be",
	}, func(ctx context.Context, id string) error {
		show := a.progress(quiet)
		op, err := a.Making.FollowOperation(ctx, id, show.event)
		show.end()
		if err != nil {
			return err
		}
		switch op.Status {
		case banger.OperationCanceled:
			return banger.Errorf(banger.CodeCanceled, "operation %s was canceled", op.ID)
		case banger.OperationFailed:
			return op.Error
		}
		return a.print(op, func(w io.Writer) { _, _ = fmt.Fprintln(w, op.Name) })
	})
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func cancelOperation(a *App) *cobra.Command {
	return oneOperation(a, &cobra.Command{
		Use:     "cancel OPERATION",
		Short:   "Give an operation up",
		Long:    "Gives an operation up and returns once nothing of its VM remains. One that ended\nalready without a VM is left as it is.",
		Example: "  banger operation cancel 4f1d09c2a7be",
	}, func(ctx context.Context, id string) error {
		op, err := a.Making.CancelOperation(ctx, id)
		if err != nil {
			return err
		}
		return a.print(op, func(w io.Writer) { _, _ = fmt.Fprintln(w, op.ID) })
	})
}

// oneOperation is a command about one operation.
func oneOperation(a *App, cmd *cobra.Command, do func(ctx context.Context, id string) error) *cobra.Command {
	cmd.Args = nargs(1, 1)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var ids []string
		if len(args) == 0 {
			ops, _ := a.Making.Operations(cmd.Context()) // nothing to offer is no error here
			for _, op := range ops {
				ids = append(ids, op.ID)
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := interruptible(cmd.Context())
		defer stop()
		return do(ctx, args[0])
	}
	return cmd
}

package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"banger"
)

func createCommand(a *App) *cobra.Command {
	var spec specFlags
	var noStart, detach, quiet bool
	var wait waitFlag
	cmd := &cobra.Command{
		Use:   "create [flags]",
		Short: "Make a VM and start it",
		Long: `Makes a VM and starts it; prints its name. When it is interrupted, nothing of the
VM remains. With -d it is made without this command: what is printed is the id of
the operation, for "banger operation wait" and its like.`,
		Example: `  banger vm create --name web --memory 2G
  banger vm create --no-start --disk-size 40G
  banger operation wait $(banger vm create -d --name web)`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			s, err := spec.spec()
			if err != nil {
				return err
			}
			if detach {
				op, err := a.Making.BeginCreate(ctx, s, !noStart)
				if err != nil {
					return err
				}
				return a.print(op, func(w io.Writer) { _, _ = fmt.Fprintln(w, op.ID) })
			}
			show := a.progress(quiet)
			vm, err := a.VMs.CreateVM(ctx, s, !noStart, show.event)
			if err == nil && !noStart {
				if err = wait.wait(ctx, a, vm, show.event); banger.CodeOf(err) == banger.CodeCanceled {
					err = a.drop(ctx, vm, err)
				}
			}
			show.end()
			if err != nil {
				return err
			}
			return a.print(vm, func(w io.Writer) { _, _ = fmt.Fprintln(w, vm.Spec.Name) })
		},
	}
	spec.addFlags(a, cmd)
	wait.add(cmd)
	cmd.Flags().BoolVar(&noStart, "no-start", false, "leave it stopped")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "don't wait: print the operation's id")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

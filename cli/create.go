package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func createCommand(a *App) *cobra.Command {
	var spec specFlags
	var noStart, quiet bool
	cmd := &cobra.Command{
		Use:   "create [flags]",
		Short: "Make a VM and start it",
		Long:  "Makes a VM and starts it; prints its name.",
		Example: `  banger vm create --name web --memory 2G
  banger vm create --no-start --disk-size 40G`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			s, err := spec.spec()
			if err != nil {
				return err
			}
			show := a.progress(quiet)
			vm, err := a.VMs.CreateVM(ctx, s, !noStart, show.event)
			show.end()
			if err != nil {
				return err
			}
			return a.print(vm, func(w io.Writer) { _, _ = fmt.Fprintln(w, vm.Spec.Name) })
		},
	}
	spec.addFlags(a, cmd)
	cmd.Flags().BoolVar(&noStart, "no-start", false, "leave it stopped")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

package cli

import (
	"errors"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"banger"
)

func logsCommand(a *App) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs VM",
		Short: "Print a VM's console",
		Long:  "Prints what the VM wrote to its serial console, as far as it is kept.",
		Example: `  banger vm logs web
  banger vm logs -f web`,
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			read, left := whileRead(ctx, a.Out)
			defer left()
			rc, err := a.VMs.Logs(read, args[0], follow)
			if ctx.Err() == nil && read.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			defer func() { _ = rc.Close() }()
			_, err = io.Copy(a.Out, rc)
			switch {
			case ctx.Err() != nil:
				return banger.Errorf(banger.CodeCanceled, "interrupted")
			case read.Err() != nil, errors.Is(err, syscall.EPIPE):
				return nil
			case err != nil:
				return banger.Errorf(banger.CodeUnavailable, "the log broke off: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the VM ends")
	return cmd
}

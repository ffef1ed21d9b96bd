package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func deleteCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use:               "delete VM...",
		Aliases:           []string{"rm"},
		Short:             "End VMs and delete all they had, their disks too",
		Long:              "Ends VMs in whatever state they are and deletes all they had, their disks too.\nThere is no way back.",
		Example:           "  banger vm delete web db",
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			deleted := []string{}
			err := a.each(args, func(ref string) error {
				err := a.VMs.DeleteVM(ctx, ref)
				if err == nil {
					deleted = append(deleted, ref)
				}
				return err
			})
			return firstError(err, a.print(deleted, func(w io.Writer) {
				for _, ref := range deleted {
					_, _ = fmt.Fprintln(w, ref)
				}
			}))
		},
	}
}

// firstError returns the first of its arguments that is one.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

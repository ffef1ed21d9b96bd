package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/guest"
)

func commandKillCommand(a *App) *cobra.Command {
	var signal string
	cmd := answers(a, &cobra.Command{
		Use:   "kill VM ID...",
		Short: "Send a signal to commands in a VM",
		Long: `Sends a signal to commands and what they started, TERM unless --signal says
otherwise, and prints their ids. It doesn't wait until they have ended.`,
		Example: `  banger command kill web 1f3a
  banger command kill --signal KILL web 1f3a`,
		Args: nargs(2, -1), ValidArgsFunction: completeCommands(a, 0),
	}, func(ctx context.Context, args []string) ([]guest.Command, error) {
		vm, err := a.VMs().VM(ctx, args[0])
		if err != nil {
			return nil, err
		}
		var done []guest.Command
		var errs []error
		for _, id := range args[1:] {
			c, err := theCommand(ctx, a, vm, id)
			if err == nil {
				if err = a.guest(vm).Signal(ctx, c.ID, signal); err != nil {
					err = a.execError(ctx, vm, err)
				}
			}
			if err == nil {
				done = append(done, c)
			}
			errs = append(errs, err)
		}
		return done, together(errs...)
	}, func(w *page, list []guest.Command) {
		for _, c := range list {
			_, _ = fmt.Fprintln(w, shortID(c.ID))
		}
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "TERM", "the signal, as INT, KILL or USR1")
	_ = cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions([]string{"TERM", "KILL", "INT", "HUP", "STOP", "CONT", "USR1", "USR2"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

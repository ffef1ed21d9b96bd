package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"banger"
)

func vmExecCommand(a *App) *cobra.Command {
	var f commandFlags
	var cmd *cobra.Command
	cmd = gives(a, &cobra.Command{
		Use:        "exec [flags] VM [COMMAND...]",
		Aliases:    []string{"shell"},
		SuggestFor: []string{"enter", "console"},
		Short:      "Run a command or a shell in a running VM",
		Long: `Runs COMMAND, or a login shell, in a VM. It begins in the VM's repository, else in
the user's home. Standard input and signals go to the command; its output and status
come back. It goes on without a gap when the daemon is restarted meanwhile.
` + statuses,
		Example: `  banger vm exec web
  banger vm exec web -- systemctl status
  head -c 100M /dev/zero | banger vm exec web -- wc -c
  banger vm exec -e CI=1 -w /srv web -- make`,
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(1),
	}, nil, func(ctx context.Context, args []string, say func(...Ran) error) error {
		argv, err := commandAfter(cmd, args[1:])
		if err == nil {
			err = f.check(a, argv)
		}
		if err != nil {
			return err
		}
		look, stop := interruptible(ctx)
		vm, err := a.VMs().VM(look, args[0])
		stop()
		if err != nil {
			return err
		}
		ran, err := a.interact(ctx, vm, f, argv)
		if ran.Exit != nil {
			return firstError(say(ran), err)
		}
		if e, ok := errors.AsType[*banger.Error](err); ok && e.Code == banger.CodeNotRunning && e.Hint == "" {
			return e.WithHint("`banger vm start %s` starts it", vm.Spec.Name)
		}
		return err
	}, ranNothing)
	f.addFlags(cmd)
	return cmd
}

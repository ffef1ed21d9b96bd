package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"banger"
)

func execCommand(a *App) *cobra.Command {
	var f commandFlags
	cmd := &cobra.Command{
		Use:        "exec [flags] VM [-- COMMAND...]",
		SuggestFor: []string{"ssh", "shell", "enter", "attach"},
		Short:      "Run a command or a shell in a running VM",
		Long: `Runs COMMAND in a VM, or a login shell. It begins in the VM's repository, else in
the user's home. Streams, signals and status are the command's own; output goes
on without a gap when the daemon is replaced meanwhile.
` + statuses,
		Example: `  banger vm exec web
  banger vm exec web -- systemctl status
  head -c 100M /dev/zero | banger vm exec web -- wc -c
  banger vm exec -e CI=1 -w /srv web -- make`,
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			vm, err := a.VMs.VM(ctx, args[0])
			stop()
			if err != nil {
				return err
			}
			err = a.interact(cmd.Context(), vm, f, args[1:])
			if e, ok := errors.AsType[*banger.Error](err); ok && e.Code == banger.CodeNotRunning && e.Hint == "" {
				return e.WithHint("`banger vm start %s` starts it", vm.Spec.Name)
			}
			return err
		},
	}
	f.addFlags(cmd)
	return cmd
}

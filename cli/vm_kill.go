package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func vmKillCommand(a *App) *cobra.Command {
	var signal string
	cmd := eachVM(a, &cobra.Command{
		Use:   "kill VM...",
		Short: "Send a signal to VMs' hypervisor processes",
		Long: `Sends a signal to the hypervisor process of each VM, without asking the guest: KILL,
or another one with --signal. What the guest hasn't synced to its disk is lost when
the VM is killed. STOP pauses a VM, CONT lets it go on. It doesn't wait for a stop
that is under way.`,
		Example: `  banger vm kill web
  banger vm kill --signal STOP web`,
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) {
		return a.VMs().KillVM(ctx, vm.ID, signal)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "one of "+strings.Join(banger.Signals(), ", "))
	_ = cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(banger.Signals(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func stopCommand(a *App) *cobra.Command {
	var opt banger.StopOptions
	cmd := eachVM(a, &cobra.Command{
		Use:   "stop VM...",
		Short: "Shut VMs down; their disks stay",
		Long: `Asks each VM's own init to shut down and waits; ends the VM when that takes too
long. A stopped VM is left as it is.`,
		Example: `  banger vm stop web
  banger vm stop --force web`,
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) { return a.VMs.StopVM(ctx, vm.ID, opt) })
	stopFlags(cmd, &opt)
	return cmd
}

func stopFlags(cmd *cobra.Command, opt *banger.StopOptions) {
	cmd.Flags().DurationVar(&opt.Timeout, "timeout", 30*time.Second, "how long the guest's own shutdown may take")
	cmd.Flags().BoolVarP(&opt.Force, "force", "f", false, "don't ask the guest, end it at once")
}

func killCommand(a *App) *cobra.Command {
	var signal string
	cmd := eachVM(a, &cobra.Command{
		Use:   "kill VM...",
		Short: "Send VMs' hypervisor processes a signal",
		Long: `Sends a signal to the hypervisor process of each VM, past its guest: KILL, or what
--signal says. What the guest hasn't synced to its disk is lost. STOP freezes a
VM, CONT lets it go on. It doesn't wait for a stop that is under way.`,
		Example: `  banger vm kill web
  banger vm kill --signal STOP web`,
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) {
		return a.Control.KillVM(ctx, vm.ID, signal)
	})
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "one of "+strings.Join(banger.Signals(), ", "))
	_ = cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(banger.Signals(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func vmStopCommand(a *App) *cobra.Command {
	var opt banger.StopOptions
	cmd := eachVM(a, &cobra.Command{
		Use:   "stop VM...",
		Short: "Shut VMs down; their disks stay",
		Long: `Asks each VM's own init to shut down, and waits. A VM that takes longer than
--timeout is killed. A stopped VM is left as it is.`,
		Example: `  banger vm stop web
  banger vm stop --force web`,
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) { return a.VMs().StopVM(ctx, vm.ID, opt) })
	stopFlags(cmd, &opt)
	return cmd
}

func stopFlags(cmd *cobra.Command, opt *banger.StopOptions) {
	opt.Timeout = 30 * time.Second
	cmd.Flags().VarP((*seconds)(&opt.Timeout), "timeout", "t", "how long the guest's own shutdown may take: 30, 30s, 5m")
	cmd.Flags().BoolVarP(&opt.Force, "force", "f", false, "don't ask the guest: kill it at once")
}

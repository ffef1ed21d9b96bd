package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func vmRestartCommand(a *App) *cobra.Command {
	var opt banger.StopOptions
	var quiet bool
	cmd := eachVM(a, &cobra.Command{
		Use:   "restart VM...",
		Short: "Stop VMs and start them again",
		Long: `Stops VMs as "vm stop" does, starts them again and waits until each answers. Changes
by "vm set" take effect. A stopped VM is started.`,
		Example: "  banger vm restart web",
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) {
		show := a.progress(quiet)
		defer show.end()
		return a.VMs().RestartVM(ctx, vm.ID, opt, show.event)
	})
	stopFlags(cmd, &opt)
	cmd.Flags().BoolVar(&opt.Cold, "cold", false, "boot, don't restore from a template")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

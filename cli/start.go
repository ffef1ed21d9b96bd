package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"banger"
)

func startCommand(a *App) *cobra.Command {
	var quiet, cold bool
	cmd := eachVM(a, &cobra.Command{
		Use:     "start VM...",
		Short:   "Start stopped VMs",
		Long:    "Starts VMs and waits until each answers. A running VM is left as it is.",
		Example: "  banger vm start web db",
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) {
		show := a.progress(quiet)
		defer show.end()
		if cold {
			return a.Control.BootVM(ctx, vm.ID, show.event)
		}
		return a.VMs.StartVM(ctx, vm.ID, show.event)
	})
	cmd.Flags().BoolVar(&cold, "cold", false, "boot, don't restore from a template")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func restartCommand(a *App) *cobra.Command {
	var opt banger.StopOptions
	var quiet bool
	cmd := eachVM(a, &cobra.Command{
		Use:   "restart VM...",
		Short: "Stop VMs and start them again",
		Long: `Stops VMs as "vm stop" does, starts them and waits until each answers. What "vm
set" changed takes effect. A stopped VM is started.`,
		Example: "  banger vm restart web",
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) {
		show := a.progress(quiet)
		defer show.end()
		return a.Control.RestartVM(ctx, vm.ID, opt, show.event)
	})
	stopFlags(cmd, &opt)
	cmd.Flags().BoolVar(&opt.Cold, "cold", false, "boot, don't restore from a template")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// printNames prints what was done to the VMs that it was done to, and passes
// err on.
func (a *App) printNames(vms []banger.VM, err error) error {
	if vms == nil {
		vms = []banger.VM{}
	}
	perr := a.print(vms, func(w io.Writer) {
		for _, vm := range vms {
			_, _ = fmt.Fprintln(w, vm.Spec.Name)
		}
	})
	return firstError(err, perr)
}

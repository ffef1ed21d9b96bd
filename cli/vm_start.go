package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func vmStartCommand(a *App) *cobra.Command {
	var quiet bool
	var opt banger.StartOptions
	cmd := answers(a, &cobra.Command{
		Use:     "start VM...",
		Short:   "Start stopped VMs",
		Long:    "Starts VMs and waits until each answers. A running VM is left as it is.",
		Example: "  banger vm start web db",
		Args:    nargs(1, -1), ValidArgsFunction: a.completeVMs(0),
	}, func(ctx context.Context, args []string) ([]banger.VM, error) {
		vms, err := each(ctx, a, args, func(ctx context.Context, vm banger.VM) (banger.VM, error) {
			show := a.progress(quiet)
			defer show.end()
			return a.VMs().StartVM(ctx, vm.ID, opt, show.event)
		})
		if e, ok := err.(*banger.Error); ok && e.Code == banger.CodeNotFound {
			err = e.WithHint("`banger ps` shows all VMs; `banger vm create --name %s` makes this one", args[0])
		}
		return vms, err
	}, names)
	cmd.Flags().BoolVar(&opt.Cold, "cold", false, "boot, don't restore from a template")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

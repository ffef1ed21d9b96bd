package cli

import (
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func stopCommand(a *App) *cobra.Command {
	var opt banger.StopOptions
	cmd := &cobra.Command{
		Use:   "stop VM...",
		Short: "Shut VMs down; their disks stay",
		Long: `Asks each VM's own init to shut down and waits; ends the VM when that takes too
long. A stopped VM is left as it is.`,
		Example: `  banger vm stop web
  banger vm stop --force web`,
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			var vms []banger.VM
			err := a.each(args, func(ref string) error {
				vm, err := a.VMs.StopVM(ctx, ref, opt)
				if err == nil {
					vms = append(vms, vm)
				}
				return err
			})
			return a.printNames(vms, err)
		},
	}
	cmd.Flags().DurationVar(&opt.Timeout, "timeout", 30*time.Second, "how long the guest's own shutdown may take")
	cmd.Flags().BoolVarP(&opt.Force, "force", "f", false, "don't ask the guest, end it at once")
	return cmd
}

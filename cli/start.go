package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"banger"
)

func startCommand(a *App) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:               "start VM...",
		Short:             "Start stopped VMs",
		Long:              "Starts VMs and waits until each answers. A running VM is left as it is.",
		Example:           "  banger vm start web db",
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			var vms []banger.VM
			err := a.each(args, func(ref string) error {
				show := a.progress(quiet)
				defer show.end()
				vm, err := a.VMs.StartVM(ctx, ref, show.event)
				if err == nil {
					vms = append(vms, vm)
				}
				return err
			})
			return a.printNames(vms, err)
		},
	}
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
	if err == nil {
		err = perr
	}
	return err
}

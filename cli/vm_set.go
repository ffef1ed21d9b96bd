package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"banger"
)

func setCommand(a *App) *cobra.Command {
	var vcpu count
	memory, disk := size{unit: 1}, size{unit: 1024}
	cmd := eachVM(a, &cobra.Command{
		Use:   "set VM...",
		Short: "Change VMs' CPUs, memory and disk size",
		Long: `Changes VMs' CPUs, memory and disk size. A disk only grows; the guest's file system
grows along. A running VM keeps what it has until it is restarted.`,
		Example: `  banger vm set --memory 4G --vcpu 4 web
  banger vm set --disk-size 40G web && banger vm restart web`,
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) {
		return a.change(ctx, vm, banger.Change{VCPU: int(vcpu), MemoryMiB: memory.mib, DiskMiB: disk.mib})
	})
	fs := cmd.Flags()
	fs.Var(&vcpu, "vcpu", "virtual CPUs")
	fs.Var(&memory, "memory", "memory: 512M, 2G; a bare number is MiB")
	fs.Var(&disk, "disk-size", "its own disk: 10G, 512M; a bare number is GiB")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if vcpu == 0 && memory.mib == 0 && disk.mib == 0 {
			return usage(cmd, "vm set: say what to change: --vcpu, --memory or --disk-size")
		}
		return nil
	}
	return cmd
}

func renameCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use:     "rename VM NAME",
		Short:   "Give a VM another name",
		Long:    "Gives a VM another name. A running guest keeps its host name until it is restarted.",
		Example: "  banger vm rename swift-otter web",
		Args:    nargs(2, 2), ValidArgsFunction: a.completeVMs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			vm, err := a.VMs.VM(ctx, args[0])
			if err != nil {
				return err
			}
			if args[1] == "" {
				return usage(cmd, "a VM needs a name")
			}
			vm, err = a.change(ctx, vm, banger.Change{Name: args[1]})
			if err != nil {
				return err
			}
			return a.print(vm, func(w io.Writer) { _, _ = fmt.Fprintln(w, vm.Spec.Name) })
		},
	}
}

// change makes a change and says when it takes a restart to see it.
func (a *App) change(ctx context.Context, vm banger.VM, change banger.Change) (banger.VM, error) {
	vm, err := a.Control.SetVM(ctx, vm.ID, change)
	if err == nil && vm.NeedsRestart && !a.json {
		_, _ = fmt.Fprintf(a.Err, "banger: vm %[1]s needs a restart for this to take effect: banger vm restart %[1]s\n", vm.Spec.Name)
	}
	return vm, err
}

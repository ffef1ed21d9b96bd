package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func vmSetCommand(a *App) *cobra.Command {
	var vcpu count
	memory, disk := size{unit: 1}, size{unit: 1024}
	cmd := eachVM(a, &cobra.Command{
		Use:   "set VM...",
		Short: "Change VMs' CPUs, memory and disk size",
		Long: `Changes VMs' CPUs, memory and disk size. A disk can only grow, and the guest's file
system grows with it. A running VM keeps what it has until it is restarted.`,
		Example: `  banger vm set --memory 4G --vcpu 4 web
  banger vm set --disk-size 40G web && banger vm restart web`,
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) {
		return a.change(ctx, vm, banger.Change{VCPU: int(vcpu), MemoryMiB: memory.mib, DiskMiB: disk.mib})
	})
	fs := cmd.Flags()
	fs.Var(&vcpu, "vcpu", "virtual CPUs; also --cpus")
	fs.VarP(&memory, "memory", "m", "memory: 512M, 2G; a bare number is MiB")
	fs.Var(&disk, "disk-size", "its own disk: 10G, 512M; a bare number is GiB")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if vcpu == 0 && memory.mib == 0 && disk.mib == 0 {
			return usage(cmd, "vm set: nothing to change: give --vcpu, --memory or --disk-size")
		}
		return nil
	}
	return cmd
}

// change changes a VM and tells the user if it needs a restart.
func (a *App) change(ctx context.Context, vm banger.VM, change banger.Change) (banger.VM, error) {
	vm, err := a.VMs().SetVM(ctx, vm.ID, change)
	if err == nil && vm.NeedsRestart {
		a.note("vm %[1]s needs a restart for this to take effect: banger vm restart %[1]s", vm.Spec.Name)
	}
	return vm, err
}

package cli

import (
	"github.com/spf13/cobra"
)

func hypervisorCommand(a *App) *cobra.Command {
	cmd := a.group("hypervisor", "The programs that VMs run on")
	cmd.Long = `VMs run on Firecracker where it is installed and KVM works, else on QEMU, which also
works without KVM. --hypervisor chooses for one VM, hypervisor in config.toml for all
others. Firecracker is only fetched when you ask for it.`
	cmd.AddCommand(hypervisorListCommand(a), hypervisorInstallCommand(a))
	return cmd
}

package cli

import (
	"github.com/spf13/cobra"
)

func hypervisorCommand(a *App) *cobra.Command {
	cmd := a.group("hypervisor", "The programs that VMs run on")
	cmd.Long = `With KVM VMs run on Firecracker where it is installed, else on QEMU. Without KVM they
run on User-mode Linux (uml) in a jail, or on QEMU by emulation: --isolation names which,
and what else it means is in docs/isolation.md. --hypervisor chooses for one VM, hypervisor
in config.toml for all others. Firecracker is only fetched when you ask for it.`
	cmd.AddCommand(hypervisorListCommand(a), hypervisorInstallCommand(a))
	return cmd
}

package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

func vmCommand(a *App) *cobra.Command {
	cmd := a.group("vm", "Make, use and delete VMs")
	cmd.AddCommand(vmRunCommand(a), vmCreateCommand(a), vmStartCommand(a), vmStopCommand(a), vmRestartCommand(a), vmKillCommand(a),
		vmDeleteCommand(a), vmPruneCommand(a), vmSetCommand(a), vmRenameCommand(a),
		vmListCommand(a), vmShowCommand(a), vmHealthCommand(a), vmStatsCommand(a), vmExecCommand(a), vmAttachCommand(a), vmCpCommand(a), vmLogsCommand(a))
	return cmd
}

// completeVMs completes VM names; without a daemon it is silent.
func (a *App) completeVMs(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		vms, err := a.VMs().VMs(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, vm := range vms {
			if strings.HasPrefix(vm.Spec.Name, prefix) {
				names = append(names, vm.Spec.Name+"\t"+string(vm.State))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

package cli

import (
	"github.com/spf13/cobra"
)

func daemonCommand(a *App) *cobra.Command {
	cmd := a.group("daemon", "See, restart and end the daemon")
	cmd.Long = "The daemon starts by itself when a command needs it. VMs don't need it to run."
	cmd.AddCommand(daemonStatusCommand(a), daemonStopCommand(a), daemonRestartCommand(a))
	return cmd
}

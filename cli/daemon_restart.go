package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func daemonRestartCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use:   "restart",
		Short: "End the daemon and start it again; running VMs run on",
		Long: `Ends the daemon, if one runs, and starts the program that is installed now, which
reads config.toml anew. Running VMs and the commands in them go on. After an upgrade
the next command does this by itself.`,
		Example: "  banger daemon restart",
		Args:    nargs(0, 0),
	}, func(ctx context.Context, _ []string) (DaemonStatus, error) {
		if err := a.Daemon.Restart(ctx); err != nil {
			return DaemonStatus{}, err
		}
		return a.Daemon.Status(ctx)
	}, daemonStatus)
}

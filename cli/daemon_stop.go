package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func daemonStopCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use: "stop", Short: "End the daemon; running VMs run on", Example: "  banger daemon stop", Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) (DaemonStatus, error) {
		if err := a.Daemon.Stop(ctx); err != nil {
			return DaemonStatus{}, err
		}
		return a.Daemon.Status(ctx)
	}, func(*page, DaemonStatus) {})
}

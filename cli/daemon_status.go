package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
)

func daemonStatusCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use: "status", Short: "Say whether a daemon runs, and where its files are", Example: "  banger daemon status", Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) (DaemonStatus, error) { return a.Daemon.Status(ctx) }, daemonStatus)
}

func daemonStatus(w *page, st DaemonStatus) {
	rows := [][]string{{"running", "no"}}
	if d := st.Daemon; st.Running {
		rows = [][]string{{"running", "yes"}, {"pid", strconv.Itoa(d.PID)}, {"build", d.Build}, {"api", strconv.Itoa(d.API)}}
	}
	w.fields(append(rows, []string{"socket", st.Socket}, []string{"log", st.Log}))
}

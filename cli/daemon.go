package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"banger/version"
)

func daemonCommand(a *App) *cobra.Command {
	cmd := group("daemon", "See, restart and end the daemon")
	cmd.Long = "The daemon starts by itself when a command needs it. VMs don't need it to run."
	cmd.AddCommand(daemonStatusCommand(a), daemonStopCommand(a), daemonRestartCommand(a))
	return cmd
}

func daemonStatusCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say whether a daemon runs, and where its files are", Example: "  banger daemon status", Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return daemonStatus(ctx, a)
		},
	}
}

func daemonStatus(ctx context.Context, a *App) error {
	st, err := a.Daemon.Status(ctx)
	if err != nil {
		return err
	}
	return a.print(st, func(w io.Writer) {
		rows := [][]string{{"running", "no"}}
		if d := st.Daemon; st.Running {
			rows = [][]string{{"running", "yes"}, {"pid", strconv.Itoa(d.PID)}, {"build", d.Build}, {"api", strconv.Itoa(d.API)}}
		}
		table(w, append(rows, []string{"socket", st.Socket}, []string{"log", st.Log}))
	})
}

func daemonRestartCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use:   "restart",
		Short: "End the daemon and start it again; running VMs run on",
		Long: `Ends the daemon, if one runs, and starts it: it reads config.toml anew and is the
program that is installed now. Running VMs and the commands in them go on. A daemon
whose program was replaced by a newer one is also restarted by the next command.`,
		Example: "  banger daemon restart",
		Args:    nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if err := a.Daemon.Restart(ctx); err != nil {
				return err
			}
			return daemonStatus(ctx, a)
		},
	}
}

func daemonStopCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "End the daemon; running VMs run on", Example: "  banger daemon stop", Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.Daemon.Stop(ctx)
		},
	}
}

// versions is what `banger version --json` prints.
type versions struct {
	Build  string          `json:"build"`
	API    int             `json:"api"`
	Daemon *version.Daemon `json:"daemon,omitempty"`
}

func versionCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the versions of banger and of the running daemon", Example: "  banger version", Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Build: version.String(), API: version.API}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if st, err := a.Daemon.Status(ctx); err == nil {
				v.Daemon = st.Daemon
			}
			return a.print(v, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "banger %s, API %d\n", v.Build, v.API)
				if d := v.Daemon; d != nil {
					_, _ = fmt.Fprintf(w, "bangerd %s, API %d\n", d.Build, d.API)
				}
			})
		},
	}
}

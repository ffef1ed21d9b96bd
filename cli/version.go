package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/version"
)

// Versions are those of banger's programs.
type Versions struct {
	Build  string          `json:"build"`
	API    int             `json:"api"`
	Daemon *version.Daemon `json:"daemon,omitempty"` // of the one that runs
}

func versionCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use: "version", Short: "Print the versions of banger and of the running daemon", Example: "  banger version", Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) (Versions, error) {
		v := Versions{Build: version.String(), API: version.API}
		if st, err := a.Daemon.Status(ctx); err == nil {
			v.Daemon = st.Daemon
		}
		return v, nil
	}, func(w *page, v Versions) {
		_, _ = fmt.Fprintf(w, "banger %s, API %d\n", v.Build, v.API)
		if d := v.Daemon; d != nil {
			_, _ = fmt.Fprintf(w, "bangerd %s, API %d\n", d.Build, d.API)
		}
	})
}

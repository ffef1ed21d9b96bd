package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func workspaceLogCommand(a *App) *cobra.Command {
	var f workFlags
	cmd := answer(a, &cobra.Command{
		Use:   "log [flags] VM",
		Short: "Show the commits in a VM's copy of a repository",
		Long: `Shows the commits since the repository went into the VM, newest first, and takes
nothing. What isn't committed there is shown as one commit on top.`,
		Example:           `  banger workspace log web`,
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) (Work, error) {
		_, work, out, err := f.look(ctx, a, args[0])
		if err == nil {
			work.Close()
		}
		return out, err
	}, func(w *page, out Work) {
		for _, c := range out.Commits {
			_, _ = fmt.Fprintf(w, "%.12s %s <%s> %s\n    %s\n", c.ID, printable(c.Author, 60), printable(c.Email, 60), printable(c.Date, 30), printable(c.Subject, 200))
		}
	})
	f.add(cmd.Flags())
	return cmd
}

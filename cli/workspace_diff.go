package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func workspaceDiffCommand(a *App) *cobra.Command {
	var f workFlags
	var names bool
	cmd := answer(a, &cobra.Command{
		Use:   "diff [flags] VM",
		Short: "Show what changed in a VM's copy of a repository",
		Long: `Shows the patch that "export" would write, and takes nothing: the repository on this
host stays as it is.`,
		Example: `  banger workspace diff web
  banger workspace diff --name-status web`,
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) (Work, error) {
		_, work, out, err := f.look(ctx, a, args[0])
		if err != nil {
			return out, err
		}
		defer work.Close()
		if names || a.json {
			return out, nil
		}
		return out, work.Patch(ctx, clear(a))
	}, func(w *page, out Work) {
		if !names {
			return
		}
		for _, c := range out.Changes {
			name := printable(string(c.Path), 400)
			if len(c.From) > 0 {
				name = printable(string(c.From), 400) + " -> " + name
			}
			_, _ = fmt.Fprintf(w, "%-8s  %s\n", c.Status, name)
		}
	})
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&names, "name-status", false, "show only the files' names, and what became of them")
	return cmd
}

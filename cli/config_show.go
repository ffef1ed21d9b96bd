package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/config"
)

func configShowCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use:   "show",
		Short: "Show every setting, its value and where that came from",
		Long: `Shows every setting of config.toml: its value on this host, and whether that is the
default or the file's. A running daemon uses the settings it was started with;
"banger daemon restart" makes it read the file again.`,
		Example: `  banger config show
  banger config show --json | jq '.results[] | select(.source != "default")'`,
		Args: nargs(0, 0),
	}, func(context.Context, []string) ([]config.Setting, error) {
		c, err := a.Config()
		return c.Settings(), err
	}, listSettings)
}

// listSettings writes each setting with its meaning below it, which would make a table
// too wide.
func listSettings(w *page, list []config.Setting) {
	wide := 0
	for _, s := range list {
		wide = max(wide, len(s.Key))
	}
	file := ""
	for _, s := range list {
		mark := ""
		if s.Source != "default" {
			file, mark = s.Source, "   *"
		}
		_, _ = fmt.Fprintf(w, "%-*s = %s%s\n", wide, s.Key, orDash(printable(fmt.Sprint(s.Value), 200)), mark)
		for _, line := range wrap(s.Means, w.across()-4) {
			_, _ = fmt.Fprintf(w, "    %s\n", line)
		}
	}
	if file != "" {
		_, _ = fmt.Fprintf(w, "\n* set in %s; the others are defaults\n", file)
	} else {
		_, _ = fmt.Fprintln(w, "\nAll are defaults; `banger config check` names the file that changes them.")
	}
}

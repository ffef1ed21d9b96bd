package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func configCommand(a *App) *cobra.Command {
	cmd := group("config", "See and check the settings")
	cmd.AddCommand(configShowCommand(a), configCheckCommand(a))
	return cmd
}

func configShowCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show every setting, its value and where that came from",
		Long: `Shows every setting of config.toml: its value on this host, and whether that is the
default or the file's. A running daemon has the settings it was started with;
"banger daemon restart" gives it those of now.`,
		Example: `  banger config show
  banger config show --json | jq '.[] | select(.source != "default")'`,
		Args: nargs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.Config()
			if err != nil {
				return err
			}
			list := c.Settings()
			return a.print(list, func(w io.Writer) {
				rows := [][]string{{"SETTING", "VALUE", "FROM", "MEANING"}}
				for _, s := range list {
					rows = append(rows, []string{s.Key, orDash(printable(fmt.Sprint(s.Value), 200)), s.Source, s.Means})
				}
				table(w, rows)
			})
		},
	}
}

func configCheckCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Say whether config.toml can be used",
		Long: `Reads config.toml as the daemon would, and says what is wrong with it. The status is
0 when it can be used or isn't there, 2 when not.`,
		Example: "  banger config check && banger daemon restart",
		Args:    nargs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			c, err := a.Config()
			if err != nil {
				return err
			}
			own := 0
			for _, s := range c.Settings() {
				if s.Source != "default" {
					own++
				}
			}
			return a.print(map[string]any{"path": c.Path(), "own": own}, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%s: fine; settings of its own: %d\n", c.Path(), own)
			})
		},
	}
}

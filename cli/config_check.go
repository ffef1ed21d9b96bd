package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

// Checked is a file of settings that can be used.
type Checked struct {
	Path string `json:"path"`
	Own  int    `json:"own"` // settings that it makes
}

func configCheckCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use:   "check",
		Short: "Say whether config.toml can be used",
		Long: `Reads config.toml as the daemon would, and says what is wrong with it. The status is
0 when it can be used or doesn't exist, else 2.`,
		Example: "  banger config check && banger daemon restart",
		Args:    nargs(0, 0),
	}, func(context.Context, []string) (Checked, error) {
		c, err := a.Config()
		if err != nil {
			return Checked{}, err
		}
		v := Checked{Path: c.Path()}
		for _, s := range c.Settings() {
			if s.Source != "default" {
				v.Own++
			}
		}
		return v, nil
	}, func(w *page, v Checked) {
		_, _ = fmt.Fprintf(w, "%s: fine; it has %d settings\n", v.Path, v.Own)
	})
}

package cli

import (
	"github.com/spf13/cobra"
)

func systemCommand(a *App) *cobra.Command {
	cmd := a.group("system", "Look after what banger keeps on this host")
	cmd.AddCommand(systemDfCommand(a), systemGcCommand(a), systemPruneCommand(a))
	return cmd
}

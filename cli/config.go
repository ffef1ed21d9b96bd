package cli

import (
	"github.com/spf13/cobra"
)

func configCommand(a *App) *cobra.Command {
	cmd := a.group("config", "See and check the settings")
	cmd.AddCommand(configShowCommand(a), configCheckCommand(a))
	return cmd
}

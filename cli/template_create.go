package cli

import (
	"github.com/spf13/cobra"
)

func templateCreateCommand(a *App) *cobra.Command {
	var make templateFlags
	return make.command(a, &cobra.Command{
		Use: "create [flags]", Short: "Make a template now instead of after the next boot",
		Example: `  banger template create
  banger template create --memory 2G --vcpu 2`,
		Args: nargs(0, 0),
	})
}

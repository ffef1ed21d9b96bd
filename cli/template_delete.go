package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func templateDeleteCommand(a *App) *cobra.Command {
	return deletes(a, &cobra.Command{
		Use: "delete TEMPLATE...", Aliases: []string{"rm"}, Short: "Delete templates",
		Long:    "Deletes templates. VMs that were started from one run on.",
		Example: "  banger template delete 4f0c", ValidArgsFunction: completeTemplates(a),
	}, func(ctx context.Context, ref string) (Removed, error) {
		t, err := a.Templates().Template(ctx, ref)
		return Removed{ID: t.ID}, err
	}, func(ctx context.Context, ref string) error { return a.Templates().DeleteTemplate(ctx, ref) })
}

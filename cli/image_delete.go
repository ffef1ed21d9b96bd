package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func imageDeleteCommand(a *App) *cobra.Command {
	return deletes(a, &cobra.Command{
		Use: "delete IMAGE...", Aliases: []string{"rm"}, Short: "Delete images no VM uses", Example: "  banger image delete mine",
		ValidArgsFunction: a.completeImages,
	}, func(ctx context.Context, ref string) (Removed, error) {
		img, err := a.Images().Image(ctx, ref)
		return Removed{img.ID, img.Name}, err
	}, func(ctx context.Context, ref string) error { return a.Images().DeleteImage(ctx, ref) })
}

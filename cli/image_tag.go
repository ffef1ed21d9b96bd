package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func imageTagCommand(a *App) *cobra.Command {
	var replace bool
	cmd := answer(a, &cobra.Command{
		Use: "tag IMAGE NAME", Short: "Give an image another name",
		Long: `Gives an image one more name. It has all its names until each is deleted; VMs keep the
image, whatever it is called. With the name of a registry's image, "image push NAME" sends
it there.`,
		Example: `  banger image tag debian-12 base
  banger image tag mine ghcr.io/me/mine:1.0 && banger image push ghcr.io/me/mine:1.0`,
		Args: nargs(2, 2), ValidArgsFunction: a.completeImages,
	}, func(ctx context.Context, args []string) (banger.Image, error) {
		return a.Images().TagImage(ctx, args[0], args[1], replace)
	}, imageName)
	cmd.Flags().BoolVar(&replace, "replace", false, "take the name from the image that has it; an image without a name is deleted")
	return cmd
}

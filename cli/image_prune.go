package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func imagePruneCommand(a *App) *cobra.Command {
	var all bool
	cmd := prunes(a, &cobra.Command{
		Use:   "prune",
		Short: "Delete images no VM uses",
		Long:  "Deletes the images that no VM uses, after asking; the default image stays without --all.",
		Example: `  banger image prune --dry-run
  banger image prune --all -f`,
	}, func(ctx context.Context) ([]Removed, string, error) {
		images, err := a.Images().Images(ctx)
		if err != nil {
			return nil, "", err
		}
		used, err := inUse(ctx, a, func(vm banger.VM) string { return vm.ImageID })
		var spare []Removed
		var names []string
		for _, img := range images {
			if !used[img.ID] && (all || img.Name != settings(a).DefaultImage) {
				spare, names = append(spare, Removed{img.ID, img.Name}), append(names, img.Name)
			}
		}
		return spare, fmt.Sprintf("delete %d images: %s", len(spare), strings.Join(names, ", ")), err
	}, func(ctx context.Context, spare []Removed) ([]Removed, error) {
		return inTurn(spare, func(it Removed) (Removed, error) {
			return it, a.Images().DeleteImage(ctx, it.Name) // refuses an image that a VM uses by now
		})
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "the default image too")
	return cmd
}

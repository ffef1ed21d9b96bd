package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

// completeImages completes image names; without a daemon it is silent.
func (a *App) completeImages(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	images, err := a.Images().Images(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, img := range images {
		if strings.HasPrefix(img.Name, prefix) {
			names = append(names, img.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// imageName prints an image's name.
func imageName(w *page, img banger.Image) { _, _ = fmt.Fprintln(w, img.Name) }

func imageCommand(a *App) *cobra.Command {
	cmd := a.group("image", "Pull, build, import, save, push, list and delete images")
	cmd.AddCommand(imagePullCommand(a), imageBuildCommand(a), imageImportCommand(a), imageListCommand(a), imageShowCommand(a), imageHistoryCommand(a), imageTagCommand(a), imageSaveCommand(a), imagePromoteCommand(a), imageExportCommand(a), imagePushCommand(a), imageWarmCommand(a), imageDeleteCommand(a), imagePruneCommand(a))
	return cmd
}

package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// completeKernels completes names of kernels that are here, if a daemon runs, and of
// those that can be fetched.
func (a *App) completeKernels(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	names := map[string]bool{"debian-12-cloud": true, "debian-13-cloud": true, "debian-13-uml": true}
	if kernels, err := a.Kernels().Kernels(cmd.Context()); err == nil {
		for _, k := range kernels {
			names[k.Name] = true
		}
	}
	var list []string
	for name := range names {
		if strings.HasPrefix(name, prefix) {
			list = append(list, name)
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

func kernelCommand(a *App) *cobra.Command {
	cmd := a.group("kernel", "Fetch, import, list and delete kernels")
	cmd.AddCommand(kernelPullCommand(a), kernelImportCommand(a), kernelListCommand(a), kernelShowCommand(a), kernelDeleteCommand(a), kernelPruneCommand(a))
	return cmd
}

package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func imageSaveCommand(a *App) *cobra.Command {
	var what banger.Save
	var quiet bool
	cmd := answer(a, &cobra.Command{
		Use: "save VM IMAGE", SuggestFor: []string{"commit"}, Short: "Make an image of a stopped VM",
		Long: `Makes an image of a stopped VM: the VM's own image, and one more layer with what was
written in the VM. New VMs of the image begin with that; the VM stays as it is.

What belongs to one VM alone isn't in the layer: its host name, its machine id, /etc/hosts,
/etc/resolv.conf, and what it has of your settings (git's identity, time zone). All else
is, and whoever gets the image can read it: look for keys and passwords before you push.

What Docker and its like keep in /var/lib is part of it. Sockets are left out.`,
		Example: `  banger stop web && banger image save web web:configured
  banger run --image web:configured`,
		Args: nargs(2, 2), ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) (banger.Image, error) {
		what.VM, what.Name = args[0], args[1]
		show := a.progress(quiet)
		defer show.end()
		return a.Images().SaveImage(ctx, what, show.event)
	}, imageName)
	cmd.Flags().BoolVar(&what.Replace, "replace", false, "take the name from the image that has it")
	cmd.Flags().StringVarP(&what.Comment, "message", "m", "", "a note for the image's history")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

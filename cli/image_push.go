package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

func imagePushCommand(a *App) *cobra.Command {
	var what banger.Push
	var quiet bool
	cmd := answer(a, &cobra.Command{
		Use: "push IMAGE [REFERENCE]", Short: "Send an image to a registry",
		Long: `Sends an image to a registry, under its own name or another reference. Layers that came
from a registry are sent as they came, or not at all if the registry has them. If some are
gone from the cache and the registry lacks them, the image is sent as one layer, made of
its file system; that is said.

Who has logged in by docker login or podman login uses that here, too, with its credential
helpers. banger keeps no password. A registry must have TLS, but for those of this host;
--insecure allows others.`,
		Example: `  banger image push mine ghcr.io/me/mine:1.0
  banger image push localhost:5000/mine`,
		Args: nargs(1, 2), ValidArgsFunction: a.completeImages,
	}, func(ctx context.Context, args []string) (banger.Pushed, error) {
		what.Image, what.Ref = args[0], args[len(args)-1]
		var err error
		if what.Credentials, err = login(ctx, what.Ref); err != nil {
			return banger.Pushed{}, err
		}
		show := a.progress(quiet)
		defer show.end()
		pushed, err := a.Images().PushImage(ctx, what, show.event)
		if err == nil && pushed.Remade && !what.Squash {
			show.aside("it was sent as one layer: not all of its own layers are in the cache")
		}
		return pushed, err
	}, func(w *page, p banger.Pushed) { _, _ = fmt.Fprintf(w, "%s@%s\n", p.Ref, p.Digest) })
	cmd.Flags().BoolVar(&what.Squash, "squash", false, "as one layer, made of the file system")
	cmd.Flags().BoolVar(&what.Insecure, "insecure", false, "ask the registry without TLS: anybody in between can see the image and the login")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

package cli

import (
	"context"

	"github.com/google/go-containerregistry/pkg/authn"
	reference "github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"banger"
)

func imagePullCommand(a *App) *cobra.Command {
	var what banger.Pull
	var quiet bool
	cmd := answer(a, &cobra.Command{
		Use:   "pull REFERENCE",
		Short: "Get an image from a registry",
		Long: `Gets an OCI image from a registry and makes one file system of its layers. The
reference is one of docker's: docker.io is left out, and :latest is meant where there is
no tag. What a tag means changes: pull again to get what it means now; VMs keep the image
that they were made of.

Each layer is fetched once, checked by its digest, and kept for a week; a pull that was
broken off goes on where it ended. Who has logged in by docker login or podman login
uses that here, too, with its credential helpers. banger keeps no password.

A registry must have TLS, but for those of this host; --insecure allows others.`,
		Example: `  banger image pull alpine
  banger image pull ghcr.io/org/image:tag
  banger image pull --name mine localhost:5000/image@sha256:0123...`,
		Args: nargs(1, 1),
	}, func(ctx context.Context, args []string) (banger.Image, error) {
		what.Ref = args[0]
		show := a.progress(quiet)
		defer show.end()
		return pullImage(ctx, a, what, show)
	}, imageName)
	cmd.Flags().StringVar(&what.Name, "name", "", "the image's name here (default: the reference)")
	cmd.Flags().StringVar(&what.Platform, "platform", "", `which of an image's platforms: linux/amd64 or linux/386 (default "linux/amd64")`)
	cmd.Flags().BoolVar(&what.Insecure, "insecure", false, "ask the registry without TLS: anybody in between can send another image")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// pullImage pulls with the user's own login.
func pullImage(ctx context.Context, a *App, what banger.Pull, show *progress) (banger.Image, error) {
	var err error
	if what.Credentials, err = login(ctx, what.Ref); err != nil {
		return banger.Image{}, err
	}
	return a.Images().PullImage(ctx, what, show.event)
}

// login is what docker login or podman login keeps for a reference's registry; empty when
// there is nothing.
func login(ctx context.Context, ref string) (banger.Credentials, error) {
	parsed, err := reference.ParseReference(ref)
	if err != nil {
		return banger.Credentials{}, nil // the daemon says what is wrong with it
	}
	found, err := authn.Resolve(ctx, authn.DefaultKeychain, parsed.Context())
	var c *authn.AuthConfig
	if err == nil {
		c, err = authn.Authorization(ctx, found)
	}
	if err != nil {
		return banger.Credentials{}, banger.Errorf(banger.CodeInvalid, "the login for %s can't be read: %w", parsed.Context().RegistryStr(), err).
			WithHint("docker's config.json names it, or a helper program that has it")
	}
	return banger.Credentials{User: c.Username, Password: c.Password, Token: c.IdentityToken}, nil
}

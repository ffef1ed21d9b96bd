package cli

import (
	"github.com/spf13/cobra"
)

func imageWarmCommand(a *App) *cobra.Command {
	make := templateFlags{disk: size{unit: 1024}}
	cmd := make.command(a, &cobra.Command{
		Use: "warm IMAGE [flags]", Short: "Make new VMs of an image start with its services already running",
		Long: `Boots an image, waits for its init, runs a command in it if one is given, and
freezes memory and disk as an image template. A VM of the image that is run or
created afterwards with the same CPUs, memory and disk size is restored from it:
its services run, and what the command made is there. It first gets a name,
addresses, keys and random numbers of its own; what programs had in their memory
is the same in all these VMs.

Don't put secrets into an image template: it is kept on disk. Call this again to
make it anew. When the image or the kernel changes, it is no longer used.`,
		Example: `  banger image warm debian-12
  banger image warm debian-12 --after 'apt-get update && apt-get install -y build-essential'`,
		Args: nargs(1, 1), ValidArgsFunction: a.completeImages,
	})
	cmd.Flags().Var(&make.disk, "disk-size", "their disk: 10G, 512M; a bare number is GiB")
	cmd.Flags().StringVar(&make.spec.After, "after", "", "a shell command to run in it before it is frozen")
	return cmd
}

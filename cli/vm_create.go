package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func vmCreateCommand(a *App) *cobra.Command {
	var spec specFlags
	var noStart, detach, yes, quiet bool
	var wait waitFlag
	var cmd *cobra.Command
	cmd = answer(a, &cobra.Command{
		Use:   "create [flags]",
		Short: "Make a VM and start it",
		Long: `Makes a VM, starts it and prints its name. Kernel and image that aren't on this host
yet are fetched and made first, after you are asked. When it is interrupted, nothing of
the VM remains. With -d it doesn't wait for the VM: the daemon makes it, and the id of
the operation is printed, for "banger operation wait" and the like.`,
		Example: `  banger vm create --name web --memory 2G
  banger vm create --no-start --disk-size 40G
  banger operation wait $(banger vm create -d --name web)`,
		Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) (banger.VM, error) {
		s, err := spec.spec(a)
		if err != nil {
			return banger.VM{}, err
		}
		show := a.progress(quiet)
		defer show.end()
		if err := spec.pull.provide(ctx, a, cmd, s, yes, show); err != nil {
			return banger.VM{}, err
		}
		vm, err := a.VMs().CreateVM(ctx, s, !noStart, show.event)
		if err == nil {
			tellPorts(a, vm, s.Ports)
		}
		if err == nil && !noStart {
			if err = wait.wait(ctx, a, vm, show.event); banger.CodeOf(err) == banger.CodeCanceled {
				err = a.drop(ctx, vm, err)
			}
		}
		return vm, err
	}, name)
	or(a, cmd, &detach, "with -d", answer(a, &cobra.Command{}, func(ctx context.Context, _ []string) (banger.Operation, error) {
		s, err := spec.spec(a)
		if err != nil {
			return banger.Operation{}, err
		}
		show := a.progress(quiet)
		defer show.end()
		if err := spec.pull.provide(ctx, a, cmd, s, yes, show); err != nil {
			return banger.Operation{}, err
		}
		return a.Operations().BeginCreate(ctx, s, !noStart)
	}, operationID))
	spec.addFlags(a, cmd)
	wait.add(cmd)
	cmd.Flags().BoolVar(&noStart, "no-start", false, "leave it stopped")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "don't wait: print the operation's id")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask: fetch and make the kernel and the image that aren't here yet")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

func hypervisorInstallCommand(a *App) *cobra.Command {
	var mirror string
	cmd := answer(a, &cobra.Command{
		Use: "install [firecracker]", Short: "Fetch Firecracker", Args: nargs(0, 1), ValidArgs: []string{"firecracker"},
		Long: `Fetches one pinned, official release of Firecracker into your data directory, checked
against the checksum published with it. QEMU comes with your distribution.`,
		Example: `  banger hypervisor install
  banger hypervisor install --mirror https://mirror.example.org/firecracker`,
	}, func(ctx context.Context, args []string) (Fetched, error) {
		if len(args) > 0 && args[0] != "firecracker" {
			return Fetched{}, banger.Errorf(banger.CodeInvalid, "%q can't be fetched", args[0]).WithHint("only firecracker can be installed so; `banger doctor` names the package of QEMU")
		}
		a.note("fetching Firecracker")
		got, err := a.Daemon.FetchFirecracker(ctx, mirror)
		if ctx.Err() != nil {
			return got, banger.Errorf(banger.CodeCanceled, "interrupted; nothing was installed")
		}
		if err == nil && running(ctx, a) {
			defer a.note("the running daemon finds it after a restart (VMs run on): banger daemon restart")
		}
		return got, err
	}, func(w *page, got Fetched) { _, _ = fmt.Fprintf(w, "Firecracker %s is %s\n", got.Version, got.Path) })
	cmd.Flags().StringVar(&mirror, "mirror", "", "URL to fetch it from, with a directory per version (default firecracker_mirror in config.toml, else the project's releases)")
	return cmd
}

func running(ctx context.Context, a *App) bool {
	st, err := a.Daemon.Status(ctx)
	return err == nil && st.Running
}

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
		Use: "install [firecracker|qemu]", Short: "Fetch Firecracker or QEMU", Args: nargs(0, 1), ValidArgs: []string{"firecracker", "qemu"},
		Long: `Fetches a hypervisor into your data directory. It needs no root and changes nothing else on
this host.

firecracker is one pinned, official release, checked against the checksum published with it.

qemu is made of Debian's packages, checked by Debian's signed index: the program with all
libraries that it needs, so that it runs on any distribution. It is used where the host has no
QEMU of its own that will do; a VM that needs one fetches it by itself. Called again it looks
for updates. VMs that run go on with what they have.`,
		Example: `  banger hypervisor install
  banger hypervisor install qemu
  banger hypervisor install --mirror https://mirror.example.org/firecracker`,
	}, func(ctx context.Context, args []string) (Fetched, error) {
		if len(args) > 0 && args[0] == "qemu" {
			return fetchQEMU(ctx, a, mirror)
		}
		if len(args) > 0 && args[0] != "firecracker" {
			return Fetched{}, banger.Errorf(banger.CodeInvalid, "%q can't be fetched", args[0]).WithHint("only firecracker and qemu can be installed so")
		}
		a.note("fetching Firecracker")
		got, err := a.Daemon.FetchFirecracker(ctx, mirror)
		if ctx.Err() != nil {
			return got, banger.Errorf(banger.CodeCanceled, "interrupted; nothing was installed")
		}
		if err == nil && running(ctx, a) {
			defer a.note("the running daemon finds it after a restart (VMs run on): banger daemon restart")
		}
		got.Name = "Firecracker"
		return got, err
	}, func(w *page, got Fetched) { _, _ = fmt.Fprintf(w, "%s %s is %s\n", got.Name, got.Version, got.Path) })
	cmd.Flags().StringVar(&mirror, "mirror", "", "URL to fetch it from (default for Firecracker firecracker_mirror in config.toml, else the project's releases, with a directory per version; for QEMU mirror in config.toml, else this host's or Debian's own)")
	return cmd
}

// fetchQEMU shows how far it is. A running daemon finds the new QEMU by itself.
func fetchQEMU(ctx context.Context, a *App, mirror string) (Fetched, error) {
	show := a.progress(false)
	got, err := a.Daemon.FetchQEMU(ctx, mirror, show.event)
	show.end()
	got.Name = "QEMU"
	return got, err
}

func running(ctx context.Context, a *App) bool {
	st, err := a.Daemon.Status(ctx)
	return err == nil && st.Running
}

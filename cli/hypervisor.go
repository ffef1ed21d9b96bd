package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func hypervisorCommand(a *App) *cobra.Command {
	cmd := group("hypervisor", "The programs that VMs run on")
	cmd.Long = `VMs run on Firecracker where it is installed and KVM works, else on QEMU, which does
without KVM too. --hypervisor chooses for one VM, hypervisor in config.toml for all
that don't say. Nothing is fetched unless you ask for it.`
	cmd.AddCommand(hypervisorListCommand(a), hypervisorInstallCommand(a))
	return cmd
}

func hypervisorListCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the hypervisors that this host has, and which one new VMs get", Args: nargs(0, 0),
		Example: `  banger hypervisor list
  banger hypervisor list --json | jq -r '.[] | select(.default).name'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			r, err := a.Daemon.Examine(ctx)
			if err != nil {
				return err
			}
			return a.print(r.Hypervisors, func(w io.Writer) {
				rows := [][]string{{"NAME", "VERSION", "DEFAULT", "PATH"}}
				var notes []string
				for _, h := range r.Hypervisors {
					row := []string{h.Name, h.Version, "", h.Path}
					if h.Default {
						row[2] = "yes: " + h.Why
					}
					if h.Missing != "" {
						row[1], row[3] = "-", h.Missing
					}
					for _, hole := range h.Holes {
						notes = append(notes, fmt.Sprintf("%s %s: %s", h.Name, h.Version, hole))
					}
					rows = append(rows, row)
				}
				table(w, rows)
				if len(notes) > 0 {
					_, _ = fmt.Fprintf(w, "\nKnown:\n  %s\n", strings.Join(notes, "\n  "))
				}
			})
		},
	}
}

func hypervisorInstallCommand(a *App) *cobra.Command {
	var mirror string
	cmd := &cobra.Command{
		Use: "install [firecracker]", Short: "Fetch Firecracker", Args: nargs(0, 1), ValidArgs: []string{"firecracker"},
		Long: `Fetches one pinned, official release of Firecracker into your data directory, checked
against the checksum published with it. QEMU comes with your distribution.`,
		Example: `  banger hypervisor install
  banger hypervisor install --mirror https://mirror.example.org/firecracker`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] != "firecracker" {
				return banger.Errorf(banger.CodeInvalid, "%q can't be fetched", args[0]).WithHint("only firecracker can; QEMU comes with your distribution: banger doctor")
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			_, _ = fmt.Fprintln(a.Err, "fetching Firecracker")
			got, err := a.Daemon.FetchFirecracker(ctx, mirror)
			if ctx.Err() != nil {
				return banger.Errorf(banger.CodeCanceled, "interrupted; nothing was installed")
			}
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "Firecracker %s is %s\n", got.Version, got.Path)
				if running(ctx, a) {
					_, _ = fmt.Fprintln(a.Err, "The running daemon may choose it from its next start on (VMs run on): banger daemon restart")
				}
			})
		},
	}
	cmd.Flags().StringVar(&mirror, "mirror", "", "where to fetch it from, a directory per version (default firecracker_mirror in config.toml, else the project's releases)")
	return cmd
}

func running(ctx context.Context, a *App) bool {
	st, err := a.Daemon.Status(ctx)
	return err == nil && st.Running
}

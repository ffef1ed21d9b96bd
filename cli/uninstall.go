package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func uninstallCommand(a *App) *cobra.Command {
	var purge, force bool
	cmd := answer(a, &cobra.Command{
		Use:   "uninstall",
		Short: "Remove banger from this host",
		Long: `Ends the daemon and removes the programs of an unpacked release, sockets and downloads.
VMs, images, kernels and config.toml stay, and a new installation finds them. With
--purge they are deleted, too, and nothing of banger's is left in the home directory.
It asks first.

The status is 4 while VMs run and --purge isn't given.`,
		Example: `  banger uninstall
  banger uninstall --purge`,
		Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) (Uninstalled, error) { return uninstall(ctx, a, purge, force) }, showUninstalled)
	cmd.Flags().BoolVar(&purge, "purge", false, "delete all VMs, images, kernels and config.toml too")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "don't ask")
	return cmd
}

// Uninstalled is what was taken off this host.
type Uninstalled struct {
	VMs     []string `json:"vms"`     // names of those that were deleted
	Removed []string `json:"removed"` // paths
	Stays   []string `json:"stays"`   // paths
}

func uninstall(ctx context.Context, a *App, purge, force bool) (g Uninstalled, err error) {
	g = Uninstalled{VMs: []string{}, Removed: []string{}, Stays: []string{}}
	st, err := a.Daemon.Status(ctx)
	if err != nil {
		return g, err
	}
	var vms []banger.VM
	if st.Running || st.Records {
		if vms, err = a.VMs().VMs(ctx); err != nil {
			return g, err
		}
	}
	var running []string
	for _, vm := range vms {
		if vm.State != banger.Stopped {
			running = append(running, vm.Spec.Name)
		}
		g.VMs = append(g.VMs, vm.Spec.Name)
	}
	if !purge {
		if g.VMs = []string{}; len(running) > 0 {
			return g, banger.Errorf(banger.CodeConflict, "VMs are running: %s", strings.Join(running, ", ")).
				WithHint("`banger vm stop %s` keeps their disks; --purge deletes all VMs", strings.Join(running, " "))
		}
	}
	if !force {
		what := "remove banger's programs and downloads"
		if purge {
			what = fmt.Sprintf("remove banger and everything it keeps: %d VMs with their disks (%s), images, kernels, settings", len(vms), orDash(strings.Join(g.VMs, ", ")))
		}
		if err := a.confirm("--force", "%s", what); err != nil {
			return g, err
		}
	}
	for i := range vms {
		if !purge {
			break
		}
		if err := a.VMs().DeleteVM(ctx, vms[i].ID); err != nil && banger.CodeOf(err) != banger.CodeNotFound {
			return g, err
		}
	}
	if err := a.Daemon.Stop(ctx); err != nil {
		return g, err
	}
	if err := a.SSH.uninstall(); err != nil {
		return g, err
	}
	if g.Removed, g.Stays, err = a.Daemon.Remove(purge); err != nil {
		return g, err
	}
	return g, nil
}

func showUninstalled(w *page, g Uninstalled) {
	for _, path := range g.Removed {
		_, _ = fmt.Fprintln(w, "removed", path)
	}
	for _, path := range g.Stays {
		_, _ = fmt.Fprintln(w, "stays  ", path)
	}
}

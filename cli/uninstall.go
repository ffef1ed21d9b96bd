package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func uninstallCommand(a *App) *cobra.Command {
	var purge, force bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take banger off this host again",
		Long: `Ends the daemon and removes the programs of an unpacked release, sockets and downloads.
VMs, images, kernels and config.toml stay, for the next banger to find; with --purge
they go too, and the home directory is as it was before. It asks first.

The status is 4 while VMs run and --purge isn't given.`,
		Example: `  banger uninstall
  banger uninstall --purge`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return uninstall(ctx, a, purge, force)
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "delete all VMs, images, kernels and config.toml too")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "don't ask")
	return cmd
}

// gone is what `banger uninstall --json` prints.
type gone struct {
	VMs     []string `json:"vms"`     // deleted
	Removed []string `json:"removed"` // paths
	Stays   []string `json:"stays"`
}

func uninstall(ctx context.Context, a *App, purge, force bool) error {
	st, err := a.Daemon.Status(ctx)
	if err != nil {
		return err
	}
	var vms []banger.VM
	if st.Running || st.Records {
		if vms, err = a.VMs.VMs(ctx); err != nil {
			return err
		}
	}
	g := gone{VMs: []string{}}
	var running []string
	for _, vm := range vms {
		if vm.State != banger.Stopped {
			running = append(running, vm.Spec.Name)
		}
		g.VMs = append(g.VMs, vm.Spec.Name)
	}
	if !purge {
		if g.VMs = []string{}; len(running) > 0 {
			return banger.Errorf(banger.CodeConflict, "VMs are running: %s", strings.Join(running, ", ")).
				WithHint("`banger vm stop %s` keeps their disks; --purge deletes all VMs", strings.Join(running, " "))
		}
	}
	if !force {
		what := "remove banger's programs and downloads"
		if purge {
			what = fmt.Sprintf("remove banger with everything it keeps: %d VMs with their disks (%s), images, kernels, settings", len(vms), orDash(strings.Join(g.VMs, ", ")))
		}
		if err := a.confirm("%s", what); err != nil {
			return err
		}
	}
	for i := range vms {
		if !purge {
			break
		}
		if err := a.VMs.DeleteVM(ctx, vms[i].ID); err != nil && banger.CodeOf(err) != banger.CodeNotFound {
			return err
		}
	}
	if err := a.Daemon.Stop(ctx); err != nil {
		return err
	}
	if g.Removed, g.Stays, err = a.Daemon.Remove(purge); err != nil {
		return err
	}
	return a.print(g, func(w io.Writer) {
		for _, path := range g.Removed {
			_, _ = fmt.Fprintln(w, "removed", path)
		}
		for _, path := range g.Stays {
			_, _ = fmt.Fprintln(w, "stays  ", path)
		}
	})
}

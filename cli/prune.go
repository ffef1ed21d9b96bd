package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

// pruneFlags are those of all that is pruned.
type pruneFlags struct{ force, dryRun bool }

func (p *pruneFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&p.force, "force", "f", false, "don't ask")
	cmd.Flags().BoolVar(&p.dryRun, "dry-run", false, "only say what would be deleted")
}

// wants reports whether to go on, and asks for it where that is due.
func (p *pruneFlags) wants(a *App, n int, format string, args ...any) (bool, error) {
	if n == 0 || p.dryRun {
		return false, nil
	}
	if p.force {
		return true, nil
	}
	err := a.confirm(format, args...)
	return err == nil, err
}

// deleteAll deletes things by their names and returns those that are gone.
func deleteAll(ctx context.Context, a *App, refs []string, remove func(context.Context, string) error) ([]string, error) {
	deleted, errs := []string{}, []error{}
	for _, ref := range refs {
		err := remove(ctx, ref)
		if errs = append(errs, err); err == nil {
			deleted = append(deleted, ref)
		}
	}
	return deleted, a.tell(errs)
}

func pruneCommand(a *App) *cobra.Command {
	var p pruneFlags
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete all stopped VMs",
		Long:  "Deletes all VMs that are stopped, with their disks, after asking. There is no way\nback.",
		Example: `  banger vm prune --dry-run
  banger vm prune -f`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			vms, err := a.VMs.VMs(ctx)
			if err != nil {
				return err
			}
			var ids, names []string
			for _, vm := range vms {
				if vm.State == banger.Stopped {
					ids, names = append(ids, vm.ID), append(names, vm.Spec.Name)
				}
			}
			if yes, err := p.wants(a, len(ids), "delete %d stopped VMs with their disks: %s", len(ids), strings.Join(names, ", ")); !yes {
				return a.removed(dry(p, names), err)
			}
			return a.removed(each(ctx, a, ids, func(ctx context.Context, vm banger.VM) (string, error) {
				return vm.Spec.Name, a.Control.PruneVM(ctx, vm.ID) // which refuses one that was started meanwhile
			}))
		},
	}
	p.add(cmd)
	return cmd
}

// dry is what a dry run prints: what it would delete.
func dry(p pruneFlags, names []string) []string {
	if p.dryRun {
		return names
	}
	return nil
}

func imagePruneCommand(a *App) *cobra.Command {
	var p pruneFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete images no VM uses",
		Long:  "Deletes the images that no VM uses, after asking; the default image stays without --all.",
		Example: `  banger image prune --dry-run
  banger image prune --all -f`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			images, err := a.Catalog.Images(ctx)
			if err != nil {
				return err
			}
			used, err := inUse(ctx, a, func(vm banger.VM) string { return vm.ImageID })
			if err != nil {
				return err
			}
			var names []string
			for _, img := range images {
				if !used[img.ID] && (all || img.Name != settings(a).DefaultImage) {
					names = append(names, img.Name)
				}
			}
			if yes, err := p.wants(a, len(names), "delete %d images: %s", len(names), strings.Join(names, ", ")); !yes {
				return a.removed(dry(p, names), err)
			}
			return a.removed(deleteAll(ctx, a, names, a.Catalog.DeleteImage)) // which refuses one that a VM was made of meanwhile
		},
	}
	p.add(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "the default image too")
	return cmd
}

func kernelPruneCommand(a *App) *cobra.Command {
	var p pruneFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete kernels no VM uses",
		Long: `Deletes the kernels that no VM uses, after asking; without --all the newest one of
the default name stays, which the next VM would want.`,
		Example: `  banger kernel prune --dry-run
  banger kernel prune --all -f`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			kernels, err := a.Catalog.Kernels(ctx) // oldest first
			if err != nil {
				return err
			}
			keep, err := inUse(ctx, a, func(vm banger.VM) string { return vm.KernelID })
			if err != nil {
				return err
			}
			current := ""
			for _, k := range kernels {
				if k.Name == settings(a).DefaultKernel {
					current = k.ID
				}
			}
			keep[current] = keep[current] || !all
			var ids, names []string
			for _, k := range kernels {
				if !keep[k.ID] {
					ids, names = append(ids, k.ID), append(names, k.Name+" "+k.Version)
				}
			}
			if yes, err := p.wants(a, len(ids), "delete %d kernels: %s", len(ids), strings.Join(names, ", ")); !yes {
				return a.removed(dry(p, ids), err)
			}
			return a.removed(deleteAll(ctx, a, ids, a.Catalog.DeleteKernel))
		},
	}
	p.add(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "the default kernel too")
	return cmd
}

// inUse returns what VMs use.
func inUse(ctx context.Context, a *App, of func(banger.VM) string) (map[string]bool, error) {
	vms, err := a.VMs.VMs(ctx)
	used := map[string]bool{}
	for _, vm := range vms {
		used[of(vm)] = true
	}
	return used, err
}

func systemPruneCommand(a *App) *cobra.Command {
	var p pruneFlags
	var opt banger.PruneOptions
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Give back space: what no VM uses and can be had again",
		Long: `Deletes, after asking, what no VM uses and what can be fetched or made again:
downloads that are kept for another try, images that were built, kernels. The
default image and kernel stay, and so do their templates, without --all. Images that
were imported always stay ("banger image prune" deletes those), and so do VMs,
stopped ones too ("banger vm prune"), and downloads while something is fetched.`,
		Example: `  banger system prune --dry-run
  banger system prune --all -f
  banger system prune --dry-run --json | jq 'map(.bytes) | add'`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			look := opt
			look.DryRun = true
			list, err := a.System.Prune(ctx, look)
			if err != nil {
				return err
			}
			var bytes int64
			var names []string
			for _, x := range list {
				bytes += x.Bytes
				names = append(names, x.Kind+" "+printable(x.Name, 80))
			}
			yes, err := p.wants(a, len(list), "delete %s: %s", formatBytes(bytes), strings.Join(names, ", "))
			if err != nil {
				return err
			}
			if yes {
				if list, err = a.System.Prune(ctx, opt); err != nil {
					return err
				}
			}
			return a.print(list, func(w io.Writer) { listPruned(w, list) })
		},
	}
	p.add(cmd)
	cmd.Flags().BoolVarP(&opt.All, "all", "a", false, "the default image, if it was built, the default kernel and all templates too")
	return cmd
}

func listPruned(w io.Writer, list []banger.Pruned) {
	rows := [][]string{{"KIND", "ID", "NAME", "SIZE", "DONE", "DETAIL"}}
	for _, x := range list {
		done := "-"
		if x.Removed {
			done = "removed"
		}
		rows = append(rows, []string{x.Kind, x.ID, printable(x.Name, 80), formatBytes(x.Bytes), done, printable(x.Detail, 200)})
	}
	table(w, rows)
}

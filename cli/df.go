package cli

import (
	"context"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func dfCommand(a *App) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "df",
		Short: "Show what banger takes of this host's space",
		Long: `Shows what banger's files take: images, kernels, VMs' disks and memory, templates, logs,
downloads. What several VMs share is counted once. UNUSED is what "banger image prune"
and the like would give back.`,
		Example: `  banger system df
  banger system df -v
  banger system df --json | jq 'map(.bytes) | add'`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			list, err := a.System.Space(ctx)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				if verbose {
					listSpace(w, list)
				} else {
					sumSpace(w, list)
				}
			})
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list each thing")
	return cmd
}

func listSpace(w io.Writer, list []banger.Space) {
	rows := [][]string{{"KIND", "NAME", "VM", "SIZE", "UNUSED"}}
	for _, s := range list {
		rows = append(rows, []string{s.Kind, printable(s.Name, 80), orDash(s.VM), formatBytes(s.Bytes), map[bool]string{true: "unused"}[s.Unused]})
	}
	table(w, rows)
}

func sumSpace(w io.Writer, list []banger.Space) {
	type sum struct {
		n             int
		bytes, unused int64
	}
	var kinds []string
	sums := map[string]*sum{}
	all := &sum{}
	for _, s := range list {
		if sums[s.Kind] == nil {
			sums[s.Kind] = &sum{}
			kinds = append(kinds, s.Kind)
		}
		for _, k := range []*sum{sums[s.Kind], all} {
			k.n++
			k.bytes += s.Bytes
			if s.Unused {
				k.unused += s.Bytes
			}
		}
	}
	sums["all"] = all
	rows := [][]string{{"KIND", "COUNT", "SIZE", "UNUSED"}}
	for _, k := range append(kinds, "all") {
		rows = append(rows, []string{k, strconv.Itoa(sums[k].n), formatBytes(sums[k].bytes), formatBytes(sums[k].unused)})
	}
	table(w, rows)
}

func imagePruneCommand(a *App) *cobra.Command {
	var force, all bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete images no VM uses",
		Long:  "Deletes the images that no VM uses, after asking; the default image stays without --all.",
		Example: `  banger image prune
  banger image prune --all -f`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			names, err := unusedImages(ctx, a, all)
			if err != nil {
				return err
			}
			if len(names) > 0 && !force {
				if err := a.confirm("delete %d images: %s", len(names), strings.Join(names, ", ")); err != nil {
					return err
				}
			}
			deleted, errs := []string{}, []error{}
			for _, name := range names {
				err := a.Catalog.DeleteImage(ctx, name) // which refuses one that a VM was made of meanwhile
				if errs = append(errs, err); err == nil {
					deleted = append(deleted, name)
				}
			}
			return a.removed(deleted, a.tell(errs))
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "don't ask")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "the default image too")
	return cmd
}

func unusedImages(ctx context.Context, a *App, all bool) ([]string, error) {
	images, err := a.Catalog.Images(ctx)
	if err != nil {
		return nil, err
	}
	vms, err := a.VMs.VMs(ctx)
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	for _, vm := range vms {
		keep[vm.ImageID] = true
	}
	var names []string
	for _, img := range images {
		if !keep[img.ID] && (all || img.Name != settings(a).DefaultImage) {
			names = append(names, img.Name)
		}
	}
	return names, nil
}

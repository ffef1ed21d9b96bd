package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func systemDfCommand(a *App) *cobra.Command {
	var verbose bool
	cmd := answers(a, &cobra.Command{
		Use:   "df",
		Short: "Show what banger takes of this host's space",
		Long: `Shows what banger's files take: images, kernels, VMs' disks and memory, templates, logs,
downloads. What several VMs share is counted once. UNUSED is what "banger system prune"
would free, and "banger image prune" for images that were imported.`,
		Example: `  banger system df
  banger system df -v
  banger system df --json | jq '[.results[].bytes] | add'`,
		Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.Space, error) { return a.System().Space(ctx) },
		func(w *page, list []banger.Space) {
			if verbose {
				listSpace(w, list)
			} else {
				sumSpace(w, list)
			}
		})
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list each thing")
	return cmd
}

func listSpace(w *page, list []banger.Space) {
	var rows [][]string
	for _, s := range list {
		rows = append(rows, []string{s.Kind, printable(shortName(s), 80), orDash(s.VM), formatBytes(s.Bytes), map[bool]string{true: "unused"}[s.Unused]})
	}
	w.table([]column{{title: "KIND"}, {title: "NAME", least: 20}, {title: "VM", least: 20}, {title: "SIZE"}, {title: "UNUSED", says: true, rank: 1}}, rows)
}

// shortName is a thing's name, in which an image's id is shortened.
func shortName(s banger.Space) string {
	if id, suffix, ok := strings.Cut(s.Name, "."); ok && s.Kind == "image" && banger.IsImageID(id) {
		return banger.ShortID(id) + "." + suffix
	}
	return s.Name
}

func sumSpace(w *page, list []banger.Space) {
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
	var rows [][]string
	for _, k := range append(kinds, "all") {
		rows = append(rows, []string{k, strconv.Itoa(sums[k].n), formatBytes(sums[k].bytes), formatBytes(sums[k].unused)})
	}
	w.table([]column{{title: "KIND"}, {title: "COUNT"}, {title: "SIZE"}, {title: "UNUSED"}}, rows)
}

package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func hypervisorListCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the hypervisors that this host has, and which one new VMs get", Args: nargs(0, 0),
		Example: `  banger hypervisor list
  banger hypervisor list --json | jq -r '.results[] | select(.default).name'`,
	}, func(ctx context.Context, _ []string) ([]banger.KnownHypervisor, error) {
		r, err := a.Daemon.Examine(ctx)
		return r.Hypervisors, err
	}, listHypervisors)
}

func listHypervisors(w *page, list []banger.KnownHypervisor) {
	var rows [][]string
	var notes []string
	for _, h := range list {
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
	w.table([]column{{title: "NAME"}, {title: "VERSION", least: 20}, {title: "DEFAULT", says: true, least: 20}, {title: "PATH", rank: 1, least: 25}}, rows)
	if len(notes) > 0 {
		_, _ = fmt.Fprintf(w, "\nKnown:\n  %s\n", strings.Join(notes, "\n  "))
	}
}

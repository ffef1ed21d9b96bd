package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

func commandListCommand(a *App) *cobra.Command {
	names := map[string]string{} // of VMs, by id
	cmd := answers(a, &cobra.Command{
		Use:     "list [VM...]",
		Aliases: []string{"ls", "ps"},
		Short:   "List commands that run in VMs, and the last that have ended",
		Long:    "Lists the commands that VMs keep, oldest first; without names, those of all VMs that\nrun.",
		Example: `  banger command list
  banger command list web --json`,
		ValidArgsFunction: a.completeVMs(0),
	}, func(ctx context.Context, args []string) ([]guest.Command, error) {
		if len(args) == 0 {
			vms, err := a.VMs().VMs(ctx)
			if err != nil {
				return nil, err
			}
			for _, vm := range vms {
				if vm.State == banger.Running {
					args = append(args, vm.ID)
				}
			}
		}
		type kept struct {
			vm   banger.VM
			list []guest.Command
		}
		all, err := each(ctx, a, args, func(ctx context.Context, vm banger.VM) (kept, error) {
			list, err := commands(ctx, a, vm)
			return kept{vm, list}, err
		})
		list := []guest.Command{}
		for _, k := range all {
			names[k.vm.ID] = k.vm.Spec.Name
			list = slices.Concat(list, k.list)
		}
		return list, err
	}, func(w *page, list []guest.Command) {
		var rows [][]string
		for _, c := range list {
			began := "-"
			if !c.Started.IsZero() {
				began = age(time.Since(c.Started))
			}
			rows = append(rows, []string{shortID(c.ID), names[c.VM], commandStatus(c), began, formatBytes(c.Stdout + c.Stderr),
				orDash(printable(strings.Join(c.Argv, " "), 40))})
		}
		w.table([]column{{title: "ID"}, {title: "VM", least: 20}, {title: "STATUS", says: true}, {title: "AGE", rank: 1}, {title: "OUTPUT", rank: 2}, {title: "COMMAND", least: 15}}, rows)
	})
	return cmd
}

// commandStatus says in a few words whether a command runs, or how it ended.
func commandStatus(c guest.Command) string {
	switch {
	case c.Running:
		return "running"
	case c.OOM:
		return "out of memory"
	case c.Signal != "":
		return "signal " + printable(c.Signal, 10)
	case c.Exit == nil:
		return "-"
	}
	return fmt.Sprintf("exit %d", *c.Exit)
}

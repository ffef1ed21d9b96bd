package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func vmListCommand(a *App) *cobra.Command {
	var quiet bool
	var which filter
	cmd := answers(a, &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "ps"},
		Short:   "List VMs",
		Long:    "Lists all VMs, oldest first, or those that fit all filters.",
		Example: `  banger ps
  banger vm list --json
  banger vm list --filter label=job=nightly --filter state=running
  banger vm delete $(banger ps -q)`,
		Args: nargs(0, 0),
	}, func(ctx context.Context, _ []string) ([]banger.VM, error) {
		vms, err := a.VMs().VMs(ctx)
		return which.of(vms), err
	},
		func(w *page, vms []banger.VM) {
			if quiet {
				names(w, vms)
			} else {
				listVMs(w, vms, time.Now())
			}
		})
	accept(cmd, "all", "a", "stopped VMs are listed anyway")
	cmd.Flags().VarP(&which, "filter", "f", "only VMs with label=KEY, label=KEY=VALUE, name=PART, state=running or image=NAME (repeatable)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	return cmd
}

func listVMs(w *page, vms []banger.VM, now time.Time) {
	columns := []column{{title: "NAME", least: 20}, {title: "STATE", says: true}, {title: "IMAGE", rank: 3, least: 15}, {title: "ISOLATION", rank: 4}, {title: "VCPU", rank: 6},
		{title: "MEMORY", rank: 5}, {title: "DISK", rank: 7}, {title: "AGE", rank: 2}, {title: "ENDS"}, {title: "PORTS", least: 12}, {title: "REASON", rank: 1, least: 20}}
	var rows [][]string
	for _, vm := range vms {
		s := vm.Spec
		rows = append(rows, []string{s.Name, string(vm.State), s.Image, orDash(string(s.Isolation)), strconv.Itoa(s.VCPU),
			formatMiB(s.MemoryMiB), formatMiB(s.DiskMiB), age(now.Sub(vm.Created)), endsIn(vm, now), orDash(portWords(s.Ports, "->")), printable(vm.Reason, 50)})
	}
	for _, seldom := range []int{9, 8} {
		if !slices.ContainsFunc(rows, func(r []string) bool { return r[seldom] != "-" }) {
			columns = slices.Delete(columns, seldom, seldom+1)
			for i, r := range rows {
				rows[i] = slices.Delete(r, seldom, seldom+1)
			}
		}
	}
	w.table(columns, rows)
}

// endsIn says in a few words when a VM ends by itself.
func endsIn(vm banger.VM, now time.Time) string {
	var when []string
	if vm.State == banger.Running && !vm.Ends.IsZero() {
		when = append(when, "in "+age(vm.Ends.Sub(now).Round(time.Minute)))
	}
	if idle := vm.Spec.IdleStopMS; idle > 0 {
		when = append(when, "idle "+age(time.Duration(idle)*time.Millisecond))
	}
	return orDash(strings.Join(when, ", "))
}

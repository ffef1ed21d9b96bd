package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func listCommand(a *App) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List VMs",
		Long:    "Lists all VMs, oldest first.",
		Example: `  banger ps
  banger vm list --json
  banger vm delete $(banger ps -q)`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			vms, err := a.VMs.VMs(ctx)
			if err != nil {
				return err
			}
			if quiet && !a.json {
				return a.printNames(vms, nil)
			}
			if vms == nil {
				vms = []banger.VM{}
			}
			return a.print(vms, func(w io.Writer) { listVMs(w, vms, time.Now()) })
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	return cmd
}

func listVMs(w io.Writer, vms []banger.VM, now time.Time) {
	rows := [][]string{{"NAME", "STATE", "IMAGE", "VCPU", "MEMORY", "DISK", "AGE", "REASON"}}
	for _, vm := range vms {
		s := vm.Spec
		rows = append(rows, []string{s.Name, string(vm.State), s.Image, strconv.Itoa(s.VCPU),
			formatMiB(s.MemoryMiB), formatMiB(s.DiskMiB), age(now.Sub(vm.Created)), printable(vm.Reason, 50)})
	}
	table(w, rows)
}

// table writes aligned columns.
func table(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		_, _ = fmt.Fprintln(tw, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	_ = tw.Flush()
}

// age is a duration as people say it: its largest unit.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func statsCommand(a *App) *cobra.Command {
	var watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "stats [VM...]",
		Short: "Show what VMs use of this host",
		Long: `Shows what VMs, or all of them, use of this host: time and memory of their
hypervisors, and what their files take. PSS counts shared memory by its share, PRIVATE is
what only this VM has.`,
		Example: `  banger vm stats
  banger vm stats --watch web`,
		ValidArgsFunction: a.completeVMs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if every < 100*time.Millisecond {
				return usage(cmd, "--interval %s is too short", every)
			}
			before := map[string]banger.Stats{}
			for {
				list, err := a.stats(ctx, args)
				if watch && ctx.Err() != nil {
					return nil
				}
				if perr := a.showStats(list, before, watch); perr != nil || err != nil || !watch {
					return firstError(perr, err)
				}
				for _, st := range list {
					before[st.ID] = st
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(every):
				}
			}
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "go on, with the share of a CPU each uses")
	cmd.Flags().DurationVar(&every, "interval", 2*time.Second, "how often with --watch")
	return cmd
}

// stats asks for the stats of some VMs, or of all there are.
func (a *App) stats(ctx context.Context, refs []string) ([]banger.Stats, error) {
	all := len(refs) == 0
	if all {
		vms, err := a.VMs.VMs(ctx)
		if err != nil {
			return nil, err
		}
		for _, vm := range vms {
			refs = append(refs, vm.ID)
		}
	}
	return each(ctx, a, refs, func(ctx context.Context, vm banger.VM) (banger.Stats, error) { return a.Control.StatsVM(ctx, vm.ID) })
}

func (a *App) showStats(list []banger.Stats, before map[string]banger.Stats, watch bool) error {
	return a.print(list, func(w io.Writer) {
		rows := [][]string{{"NAME", "STATE", "CPU TIME", "CPU", "RSS", "PSS", "SHARED", "PRIVATE", "DISK"}}
		for _, st := range list {
			share := "-"
			if old, ok := before[st.ID]; ok && st.Time.After(old.Time) && st.CPU >= old.CPU {
				share = fmt.Sprintf("%.0f%%", 100*float64(st.CPU-old.CPU)/float64(st.Time.Sub(old.Time)))
			}
			rows = append(rows, []string{st.Name, string(st.State), st.CPU.Round(10 * time.Millisecond).String(), share,
				formatBytes(st.RSS), formatBytes(st.PSS), formatBytes(st.Shared), formatBytes(st.Private), formatBytes(st.Disk)})
		}
		if _, tty := terminal(a.Out); watch && tty {
			_, _ = fmt.Fprint(w, "\x1b[H\x1b[2J")
		}
		table(w, rows)
	})
}

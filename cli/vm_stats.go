package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func vmStatsCommand(a *App) *cobra.Command {
	var watch bool
	var every time.Duration
	before := map[string]banger.Stats{}
	var cmd *cobra.Command
	cmd = gives(a, &cobra.Command{
		Use:   "stats [VM...]",
		Short: "Show what VMs use of this host",
		Long: `Shows what VMs use of this host; without names, all of them: CPU time and memory of
their hypervisors, and the size of their files. In PSS a page that N processes share
counts for 1/N; PRIVATE is memory that only this VM has.`,
		Example: `  banger vm stats
  banger vm stats --watch web`,
		ValidArgsFunction: a.completeVMs(0),
	}, &watch, func(ctx context.Context, args []string, say func(...banger.Stats) error) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		if every < 100*time.Millisecond {
			return usage(cmd, "--interval %s is too short", every)
		}
		for {
			list, err := a.stats(ctx, args)
			if watch && ctx.Err() != nil {
				return nil
			}
			if serr := say(list...); serr != nil || err != nil || !watch {
				return firstError(err, serr)
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
	}, func(w *page, list []banger.Stats) {
		if _, tty := a.view.canvas(a.Out); watch && tty {
			_, _ = fmt.Fprint(w, "\x1b[H\x1b[2J")
		}
		listStats(w, list, before)
	})
	accept(cmd, "no-stream", "", "it prints once, unless --watch is given")
	cmd.Flags().BoolVar(&watch, "watch", false, "go on, and show the share of a CPU that each uses")
	cmd.Flags().DurationVar(&every, "interval", 2*time.Second, "time between two tables with --watch")
	return cmd
}

// stats returns the stats of the VMs that refs name, or of all VMs if refs is empty.
func (a *App) stats(ctx context.Context, refs []string) ([]banger.Stats, error) {
	all := len(refs) == 0
	if all {
		vms, err := a.VMs().VMs(ctx)
		if err != nil {
			return nil, err
		}
		for _, vm := range vms {
			refs = append(refs, vm.ID)
		}
	}
	return each(ctx, a, refs, func(ctx context.Context, vm banger.VM) (banger.Stats, error) { return a.VMs().StatsVM(ctx, vm.ID) })
}

func listStats(w *page, list []banger.Stats, before map[string]banger.Stats) {
	var rows [][]string
	for _, st := range list {
		share := "-"
		if old, ok := before[st.ID]; ok && st.Time.After(old.Time) && st.CPUMS >= old.CPUMS {
			share = fmt.Sprintf("%.0f%%", 100*float64(st.CPUMS-old.CPUMS)/float64(st.Time.Sub(old.Time).Milliseconds()))
		}
		rows = append(rows, []string{st.Name, string(st.State), (time.Duration(st.CPUMS) * time.Millisecond).String(), share,
			formatBytes(st.RSS), formatBytes(st.PSS), formatBytes(st.Shared), formatBytes(st.Private), formatBytes(st.Disk)})
	}
	w.table([]column{{title: "NAME", least: 20}, {title: "STATE", says: true, rank: 1}, {title: "CPU TIME", rank: 3}, {title: "CPU"}, {title: "RSS", rank: 4},
		{title: "PSS"}, {title: "SHARED", rank: 5}, {title: "PRIVATE", rank: 2}, {title: "DISK"}}, rows)
}

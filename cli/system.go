package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func eventsCommand(a *App) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what happened to VMs",
		Long: `Prints what happened to VMs since the daemon started, as far as it is kept: each
with the operation that errors and the daemon's log name too.`,
		Example: `  banger events
  banger events -f --json`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			ctx, left := whileRead(ctx, a.Out)
			defer left()
			var failed error
			err := a.System.Events(ctx, follow, func(e banger.Event) {
				if failed == nil {
					if failed = a.printEvent(e); failed != nil {
						stop() // nobody reads any more
					}
				}
			})
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as things happen")
	return cmd
}

func (a *App) printEvent(e banger.Event) error {
	if a.json {
		return json.NewEncoder(a.Out).Encode(e)
	}
	text := fmt.Sprintf("%s %s %s %s", e.Time.Local().Format(time.RFC3339), orDash(e.Op), orDash(e.Name), e.Stage)
	if e.Message != "" {
		text += ": " + printable(e.Message, 200)
	}
	_, err := fmt.Fprintln(a.Out, text)
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func systemCommand(a *App) *cobra.Command {
	cmd := group("system", "Look after what banger keeps on this host")
	cmd.AddCommand(dfCommand(a), gcCommand(a), systemPruneCommand(a))
	return cmd
}

func gcCommand(a *App) *cobra.Command {
	var opt banger.CollectOptions
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what no VM owns",
		Long: `Lists directories, guest memory and processes in banger's places and under its
names: owned ones are a VM's and stay, orphaned ones are no VM's and are removed,
foreign ones aren't banger's, or are another daemon's, and are never touched. There should be
no orphans; a directory that holds a disk is only removed with --disks.`,
		Example: `  banger system gc --dry-run
  banger system gc`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			found, err := a.System.Collect(ctx, opt)
			if err != nil {
				return err
			}
			return a.print(found, func(w io.Writer) {
				rows := [][]string{{"CLAIM", "KIND", "NAME", "VM", "DONE", "DETAIL"}}
				for _, f := range found {
					done := "-"
					if f.Removed {
						done = "removed"
					}
					rows = append(rows, []string{string(f.Claim), f.Kind, printable(f.Name, 200), orDash(printable(f.VM, 40)), done, printable(f.Detail, 200)})
				}
				table(w, rows)
			})
		},
	}
	cmd.Flags().BoolVar(&opt.DryRun, "dry-run", false, "only look")
	cmd.Flags().BoolVar(&opt.Disks, "disks", false, "remove orphaned directories that hold a disk, too")
	return cmd
}

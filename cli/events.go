package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func eventsCommand(a *App) *cobra.Command {
	var follow bool
	cmd := gives(a, &cobra.Command{
		Use:   "events",
		Short: "Print what happened to VMs",
		Long: `Prints what happened to VMs since the daemon started; only the latest events are kept.
Each has the id of its operation, which is also in errors and in the daemon's log.`,
		Example: `  banger events
  banger events -f --json`,
		Args: nargs(0, 0),
	}, &follow, func(ctx context.Context, _ []string, say func(...banger.Event) error) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		ctx, left := whileRead(ctx, a.Out)
		defer left()
		var failed error
		err := a.System().Events(ctx, follow, func(e banger.Event) {
			if failed == nil {
				if failed = say(e); failed != nil {
					stop() // nobody reads any more
				}
			}
		})
		if failed != nil && !errors.Is(failed, syscall.EPIPE) {
			return failed
		}
		return err
	}, printEvents)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on, and print new events as they happen")
	return cmd
}

func printEvents(w *page, list []banger.Event) {
	for _, e := range list {
		text := fmt.Sprintf("%s %s %s %s", e.Time.Local().Format(time.RFC3339), orDash(e.Op), orDash(e.Name), e.Stage)
		if e.Message != "" {
			text += ": " + printable(e.Message, 200)
		}
		_, _ = fmt.Fprintln(w, text)
	}
}

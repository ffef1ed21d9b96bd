package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

// healthTime is how long a guest may take to answer.
const healthTime = 10 * time.Second

// health is what `banger vm health --json` prints of one VM.
type health struct {
	ID       string        `json:"id"`
	Name     string        `json:"name"`
	Agent    string        `json:"agent"`
	Init     string        `json:"init"`
	Uptime   time.Duration `json:"uptime_ns"`
	Ahead    time.Duration `json:"clock_ahead_ns"` // of this host's clock; known to within RoundTrip
	Trip     time.Duration `json:"round_trip_ns"`
	Sessions int           `json:"sessions"`
}

func healthCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use:   "health VM...",
		Short: "Ask VMs for a sign of life",
		Long: `Asks the agent of each VM how it is. The status is 0 when all answer, 5 when one
doesn't run, 6 or 7 when one runs and doesn't answer.`,
		Example: `  banger vm health web
  banger vm health --json $(banger ps -q)`,
		Args: nargs(1, -1), ValidArgsFunction: a.completeVMs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			list, err := each(ctx, a, args, a.health)
			return firstError(a.print(list, func(w io.Writer) {
				rows := [][]string{{"NAME", "AGENT", "INIT", "UPTIME", "CLOCK", "ROUND TRIP", "SESSIONS"}}
				for _, h := range list {
					rows = append(rows, []string{h.Name, printable(h.Agent, 30), printable(h.Init, 20), age(h.Uptime),
						h.Ahead.Round(time.Millisecond).String(), fmt.Sprintf("%.2fms", h.Trip.Seconds()*1e3), fmt.Sprint(h.Sessions)})
				}
				table(w, rows)
			}), err)
		},
	}
}

func (a *App) health(ctx context.Context, vm banger.VM) (health, error) {
	bound, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	start := time.Now()
	h, err := a.guest(vm).Health(bound)
	took := time.Since(start)
	if err != nil && ctx.Err() == nil && bound.Err() != nil {
		err = banger.Errorf(banger.CodeTimeout, "the agent of vm %s didn't answer within %s", vm.Spec.Name, healthTime)
	}
	if g, ok := errors.AsType[*guest.Error](err); ok {
		err = banger.Errorf(banger.CodeUnavailable, "the agent of vm %s: %w", vm.Spec.Name, g)
	}
	return health{
		ID: vm.ID, Name: vm.Spec.Name, Agent: h.Agent, Init: h.Init, Uptime: time.Duration(h.UptimeMS) * time.Millisecond,
		Ahead: h.Time.Sub(start.Add(took / 2)), Trip: took, Sessions: h.Sessions,
	}, err
}

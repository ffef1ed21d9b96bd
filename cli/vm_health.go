package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

// healthTime is how long a guest may take to answer.
const healthTime = 10 * time.Second

// Health is the sign of life that a VM gave. What takes less than a millisecond has a
// fraction of one.
type Health struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	Agent    string  `json:"agent"` // its build
	Init     string  `json:"init"`  // "starting", "running", "degraded", "none"
	UptimeMS int64   `json:"uptime_ms"`
	AheadMS  float64 `json:"clock_ahead_ms"` // how far the guest's clock is before this host's, give or take round_trip_ms
	TripMS   float64 `json:"round_trip_ms"`
	Sessions int     `json:"sessions"` // commands that it knows
}

func vmHealthCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use:   "health VM...",
		Short: "Check whether VMs answer",
		Long: `Asks the agent of each VM how it is. The status is 0 when all answer, 5 when one
doesn't run, 6 or 7 when one runs and doesn't answer.`,
		Example: `  banger vm health web
  banger vm health --json $(banger ps -q)`,
		Args: nargs(1, -1), ValidArgsFunction: a.completeVMs(0),
	}, func(ctx context.Context, args []string) ([]Health, error) { return each(ctx, a, args, a.health) }, listHealth)
}

func listHealth(w *page, list []Health) {
	var rows [][]string
	for _, h := range list {
		rows = append(rows, []string{h.Name, printable(h.Agent, 30), printable(h.Init, 20), age(time.Duration(h.UptimeMS) * time.Millisecond),
			fmt.Sprintf("%.0fms", h.AheadMS), fmt.Sprintf("%.2fms", h.TripMS), fmt.Sprint(h.Sessions)})
	}
	w.table([]column{{title: "NAME", least: 20}, {title: "AGENT", rank: 1, least: 12}, {title: "INIT", says: true}, {title: "UPTIME"}, {title: "CLOCK", rank: 2}, {title: "ROUND TRIP"}, {title: "SESSIONS", rank: 3}}, rows)
}

func (a *App) health(ctx context.Context, vm banger.VM) (Health, error) {
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
	return Health{
		ID: vm.ID, Name: vm.Spec.Name, Agent: h.Agent, Init: h.Init, UptimeMS: h.UptimeMS, Sessions: h.Sessions,
		AheadMS: milliseconds(h.Time.Sub(start.Add(took / 2))), TripMS: milliseconds(took),
	}, err
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

package vm_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"banger/api"
	"banger/guest"
	"banger/host/unixsock"
	"banger/test/vmtest"
	"banger/vmm/shim"
)

var execRuns = flag.Int("exec-runs", 0, "how often a command's round trip is compared with the guest's own cost of it")

// The round trip of a command as the command line makes it, and straight to the
// shim, which is the least any daemon could add; what the guest itself takes to fork,
// execute and wait for it, timed by its agent; and a byte there and back. All in turn.
func TestExecCost(t *testing.T) {
	if *execRuns == 0 {
		t.Skip("measures; ask with -exec-runs 200")
	}
	name := vmtest.Shared.NewVM(t)
	vm := vmtest.Shared.Show(t, name)
	status, err := vmtest.Results[struct{ Socket string }](vmtest.Shared.OK(t, "daemon", "status", "--json"))
	if err != nil || len(status) != 1 {
		t.Fatalf("%d daemons, %v", len(status), err)
	}
	daemon := api.NewClient(func(ctx context.Context) (net.Conn, error) { return unixsock.Dial(ctx, status[0].Socket) })
	ways := []*way{
		{name: "by the daemon", dial: func(ctx context.Context) (net.Conn, error) { return daemon.VMs().Dial(ctx, vm.ID) }},
		{name: "straight to the shim", dial: func(ctx context.Context) (net.Conn, error) {
			return shim.Dial(ctx, filepath.Join(vmtest.Shared.State, "banger", "vms", vm.ID))
		}},
	}
	c := guest.Client{Dial: ways[0].dial}
	echo, err := c.Echo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	var bytes []time.Duration
	for range *execRuns {
		for _, i := range rand.Perm(len(ways)) { // the second pays for the first one's goodbye
			ways[i].exec(t)
		}
		began := time.Now()
		b := []byte{'x'}
		if _, err := echo.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := echo.Read(b); err != nil {
			t.Fatal(err)
		}
		bytes = append(bytes, time.Since(began))
	}
	t.Logf("%s, n=%d, medians; a byte's echo %v", *vmtest.Hypervisor, *execRuns, middle(bytes))
	for _, w := range ways {
		t.Logf("%s: round trip %v, of which the guest's own fork, exec and wait %v, a stream's opening %v; less the guest's own %v, %.2f of it",
			w.name, middle(w.trips), middle(w.own), middle(w.opening), middle(w.ours), float64(middle(w.ours))/float64(middle(w.own)))
	}
}

// way is a way to a guest's agent, and what was measured on it.
type way struct {
	name                      string
	dial                      func(context.Context) (net.Conn, error)
	trips, own, opening, ours []time.Duration
}

func (w *way) exec(t *testing.T) {
	var opening time.Duration
	c := guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		defer func(began time.Time) { opening = time.Since(began) }(time.Now())
		return w.dial(ctx)
	}}
	began := time.Now()
	status, err := c.Exec(t.Context(), guest.ExecSpec{Argv: []string{"true"}}, guest.IO{})
	if err != nil || status.Code != 0 {
		t.Fatalf("%+v, %v", status, err)
	}
	trip, own := time.Since(began), time.Duration(status.TookUS)*time.Microsecond
	w.trips, w.own = append(w.trips, trip), append(w.own, own)
	w.opening, w.ours = append(w.opening, opening), append(w.ours, trip-own)
}

func middle(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }

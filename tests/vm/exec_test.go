package vm_test

import (
	"context"
	"encoding/json"
	"flag"
	"net"
	"slices"
	"testing"
	"time"

	"banger/api"
	"banger/guest"
	"banger/tests/vmtest"
)

var execRuns = flag.Int("exec-runs", 0, "how often a command's round trip is compared with the guest's own cost of it")

// The round trip of a command through daemon, shim and channel; what the guest
// itself takes to fork, execute and wait for it, timed by its agent in the same run;
// and, in turn with them, a byte there and back.
func TestExecCost(t *testing.T) {
	if *execRuns == 0 {
		t.Skip("measures; ask with -exec-runs 200")
	}
	name := vmtest.Shared.NewVM(t)
	vm := vmtest.Shared.Show(t, name)
	var status struct{ Socket string }
	if err := json.Unmarshal([]byte(vmtest.Shared.OK(t, "daemon", "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	daemon := api.NewClient(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", status.Socket)
	})
	var opening time.Duration
	c := &guest.Client{Dial: func(ctx context.Context) (net.Conn, error) {
		defer func(began time.Time) { opening = time.Since(began) }(time.Now())
		return daemon.Dial(ctx, vm.ID)
	}}
	echo, err := c.Echo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	var trips, own, bytes, ours, opens []time.Duration
	for range *execRuns {
		began := time.Now()
		b := []byte{'x'}
		if _, err := echo.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := echo.Read(b); err != nil {
			t.Fatal(err)
		}
		e := time.Since(began)
		began = time.Now()
		status, err := c.Exec(t.Context(), guest.ExecSpec{ID: guest.NewID(), Argv: []string{"true"}}, guest.IO{})
		if err != nil || status.Code != 0 {
			t.Fatalf("%+v, %v", status, err)
		}
		trip, o := time.Since(began), time.Duration(status.TookUS)*time.Microsecond
		trips, own, bytes, ours = append(trips, trip), append(own, o), append(bytes, e), append(ours, trip-o)
		opens = append(opens, opening)
	}
	middle := func(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }
	t.Logf("%s, n=%d, medians: round trip %v, the guest's own fork, exec and wait %v, a byte's echo %v, a stream's opening %v", *vmtest.Hypervisor, *execRuns, middle(trips), middle(own), middle(bytes), middle(opens))
	t.Logf("round trip less the guest's own: %v, %.3f of the guest's own", middle(ours), float64(middle(ours))/float64(middle(own)))
}

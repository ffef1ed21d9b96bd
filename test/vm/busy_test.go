package vm_test

import (
	"flag"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/test/vmtest"
)

// An ordinary run is a short one.
var (
	busyBoots = flag.Int("busy-boots", 4, "how many boots are tried on a busy host")
	busyClock = flag.Duration("busy-clock", 20*time.Second, "how long the guest's clock runs on a busy host before it is compared")
)

// With more work than cores, every boot reaches the agent, and the guest's
// clock keeps the host's time.
func TestBusyHost(t *testing.T) {
	for range 3 {
		loop := exec.Command("sh", "-c", "while :; do :; done")
		if err := loop.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = loop.Process.Kill(); _ = loop.Wait() })
	}
	name := vmtest.Shared.NewVM(t)
	started := time.Now()
	for n := range *busyBoots {
		other := fmt.Sprintf("busy%d", n)
		r := vmtest.Shared.Run(nil, "vm", "run", "--rm", "--name", other, "--", "true")
		if r.Status != 0 {
			t.Errorf("boot %d: status %d: %s", n+1, r.Status, r.Stderr)
		}
	}
	if left := *busyClock - time.Since(started); left > 0 {
		time.Sleep(left) // the guest's clock needs time to drift: that is what is measured
	}
	var best time.Duration = time.Hour
	for range 10 {
		// The guest's clock is read somewhere between our two readings, so half of
		// their distance is what this reading can't tell; the best of ten counts.
		before := time.Now()
		out := vmtest.Shared.OK(t, "vm", "exec", name, "--", "date", "+%s%N")
		took := time.Since(before)
		ns, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		off := time.Unix(0, ns).Sub(before.Add(took / 2)).Abs()
		best = min(best, max(0, off-took/2))
	}
	t.Logf("%d boots; after %v the guest's clock is off by at least %v", *busyBoots, time.Since(started).Round(time.Second), best)
	if best > 100*time.Millisecond {
		t.Errorf("the guest's clock is %v away from the host's", best)
	}
}

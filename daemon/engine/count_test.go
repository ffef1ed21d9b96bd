package engine_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/test/fake"
)

// What recovery costs is counted in operations, not in time: none for a stopped
// VM, one a driver for a running one, at most three a record in all.
func TestRecoveryCounts(t *testing.T) {
	stopped, running, halfMade := 180, 18, 2
	if *deep {
		stopped, running, halfMade = 900, 90, 10
	}
	w := newWorld(t)
	w.defaults.Boot = time.Hour
	d := w.open(nil)
	for i := range stopped + running {
		if _, err := d.CreateVM(t.Context(), banger.Spec{}, i < running, nil); err != nil {
			t.Fatal(err)
		}
	}
	asked := make(chan struct{}, 100)
	w.host.Agent = func(*fake.Guest) { asked <- struct{}{} } // and never answers
	for range halfMade {
		go func() { _, _ = d.CreateVM(context.Background(), banger.Spec{}, true, nil) }()
	}
	for range halfMade {
		<-asked
	}
	d.kill()
	var mu sync.Mutex
	counts := map[string]int{}
	total := 0
	d = w.open(func(_, point string) fake.Fate {
		if name, ok := strings.CutPrefix(point, "before "); ok {
			mu.Lock()
			defer mu.Unlock()
			counts[name]++
			total++
		}
		return fake.Live
	})
	defer d.kill()
	mu.Lock()
	t.Logf("%d operations for %d records: %v", total, stopped+running+halfMade, counts)
	if counts["adopt"] != running {
		t.Errorf("%d adoptions of %d running VMs", counts["adopt"], running)
	}
	found := counts["adopt"] + counts["attach loops"] + counts["attach dm"] + counts["set tap"] + counts["publish"]
	if found != 5*running {
		t.Errorf("%d operations to find %d running VMs, their disks, their links and their ports", found, running)
	}
	if undoing := total - found - counts["sweep images"]; undoing > 12*halfMade {
		t.Errorf("%d operations to undo %d creations", undoing, halfMade)
	}
	if total > 3*(stopped+running+halfMade) {
		t.Errorf("%d operations in all", total)
	}
	mu.Unlock()
	if vms, _ := d.VMs(t.Context()); len(vms) != stopped+running {
		t.Errorf("%d VMs", len(vms))
	}
	w.settled(d)
	report(t, w.check(d), "recovered")
}

// A hundred creations stand in a slow operation at once, and nobody else waits.
func TestNobodyWaitsForOthers(t *testing.T) {
	const creations = 100
	w := newWorld(t)
	w.defaults.Boot = time.Hour
	release, asked := make(chan struct{}), make(chan string, 2*creations)
	w.host.Agent = func(g *fake.Guest) {
		asked <- g.ID()
		<-release
		g.Serve()
	}
	d := w.open(nil)
	defer d.kill()
	created := make(chan error, creations)
	for i := range creations {
		go func() {
			_, err := d.CreateVM(context.Background(), banger.Spec{Name: fmt.Sprintf("vm-%d", i)}, true, nil)
			created <- err
		}()
	}
	in := map[string]bool{}
	for len(in) < creations {
		in[<-asked] = true
	}
	vms, err := d.VMs(t.Context())
	if err != nil || len(vms) != creations {
		t.Fatalf("%d VMs, %v", len(vms), err)
	}
	for _, vm := range vms {
		if vm.State != banger.Starting {
			t.Errorf("vm %s is %s", vm.Spec.Name, vm.State)
		}
	}
	if _, err := d.CreateVM(t.Context(), banger.Spec{Name: "stopped"}, false, nil); err != nil {
		t.Error(err)
	}
	must(t, d.DeleteVM(t.Context(), "stopped"))
	close(release)
	for range creations {
		must(t, <-created)
	}
	report(t, w.check(d), "created")
}

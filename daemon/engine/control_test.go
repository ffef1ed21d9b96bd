package engine_test

import (
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"banger"
	"banger/guest"
	"banger/test/fake"
)

func TestSet(t *testing.T) {
	w, d := begun(t)
	vm, other := d.make(t, banger.Spec{Name: "it"}), d.make(t, banger.Spec{Name: "other"})
	for change, want := range map[banger.Change]banger.Code{
		{}:                      banger.CodeInvalid,
		{DiskMiB: 1}:            banger.CodeInvalid,
		{VCPU: -1}:              banger.CodeInvalid,
		{VCPU: 1000}:            banger.CodeInvalid,
		{MemoryMiB: 1}:          banger.CodeInvalid,
		{Name: "Not A Label"}:   banger.CodeInvalid,
		{Name: other.Spec.Name}: banger.CodeConflict,
	} {
		_, err := d.SetVM(t.Context(), "it", change)
		wantCode(t, err, want)
	}
	if got, _ := d.VM(t.Context(), "it"); !reflect.DeepEqual(got, vm) {
		t.Errorf("refused, and yet %+v", got)
	}
	got, err := d.SetVM(t.Context(), "it", banger.Change{Name: "web", VCPU: 2, MemoryMiB: 512, DiskMiB: 2048})
	if err != nil || got.Spec.Name != "web" || got.Spec.VCPU != 2 || !got.NeedsRestart {
		t.Fatalf("%+v, %v", got, err)
	}
	if again, err := d.SetVM(t.Context(), "web", banger.Change{VCPU: 2}); err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	_, err = d.VM(t.Context(), "it")
	wantCode(t, err, banger.CodeNotFound)
	if s := w.host.String(); strings.Contains(s, "2048 MiB") {
		t.Errorf("the disk of a running VM was touched:\n%s", s)
	}
	got, err = d.RestartVM(t.Context(), "web", banger.StopOptions{}, nil)
	if err != nil || got.NeedsRestart || got.Boots != 2 || got.Exit != nil {
		t.Errorf("restarted: %+v, %v", got, err)
	}
	if s := w.host.String(); strings.Count(s, "2048 MiB") != 1 {
		t.Errorf("the disk did not grow:\n%s", s)
	}
	report(t, w.check(d), "set")
}

// A time to live begins with each start that somebody asked for; a guest that reboots, or a
// daemon that dies, gives it no more.
func TestTimeToLive(t *testing.T) {
	w, d := begun(t)
	ms := func(n int64) *int64 { return &n }
	_, err := d.CreateVM(t.Context(), banger.Spec{TTLMS: -1}, false, nil)
	wantCode(t, err, banger.CodeInvalid)
	_, err = d.CreateVM(t.Context(), banger.Spec{IdleStopMS: banger.MaxTTLMS + 1}, false, nil)
	wantCode(t, err, banger.CodeInvalid)
	vm := d.make(t, banger.Spec{Name: "it", TTLMS: 3_600_000})
	if !vm.Ends.Equal(vm.Started.Add(time.Hour)) {
		t.Errorf("made: %+v", vm)
	}
	w.host.EndGuest(vm.ID, banger.Exit{Kind: banger.ExitReboot})
	if err := d.until(vm.ID, runs(2)); err != nil {
		t.Fatal(err)
	}
	d.kill()
	d = w.open(nil)
	defer d.kill()
	again, err := d.VM(t.Context(), "it")
	if err != nil || !again.Ends.Equal(vm.Ends) || again.Started.Equal(vm.Started) {
		t.Errorf("after a reboot and a daemon's death: %+v, %v", again, err)
	}
	for _, c := range []struct {
		change banger.Change
		ends   time.Duration
	}{{banger.Change{TTLMS: ms(7_200_000)}, 2 * time.Hour}, {banger.Change{TTLMS: ms(0)}, 0}, {banger.Change{IdleStopMS: ms(60_000)}, 0}, {banger.Change{TTLMS: ms(60_000)}, time.Minute}} {
		got, err := d.SetVM(t.Context(), "it", c.change)
		if left := time.Until(got.Ends); err != nil || got.NeedsRestart || got.Ends.IsZero() != (c.ends == 0) || c.ends > 0 && (left > c.ends || left < c.ends-time.Minute) {
			t.Errorf("%+v: %+v, %v", c.change, got, err)
		}
	}
	_, err = d.SetVM(t.Context(), "it", banger.Change{TTLMS: ms(-5)})
	wantCode(t, err, banger.CodeInvalid)
	was, err := d.VM(t.Context(), "it")
	got, rerr := d.RestartVM(t.Context(), "it", banger.StopOptions{}, nil)
	if err != nil || rerr != nil || !got.Ends.Equal(got.Started.Add(time.Minute)) || got.Ends.Equal(was.Ends) || got.Spec.IdleStopMS != 60_000 {
		t.Errorf("restarted: %+v, %v", got, rerr)
	}
	report(t, w.check(d), "times")
}

func TestKillBySignal(t *testing.T) {
	w, d := begun(t)
	vm := d.make(t, banger.Spec{Name: "it"})
	for _, signal := range []string{"", "QUIT", "9", "SEGV", "SIGSIGKILL"} {
		_, err := d.KillVM(t.Context(), "it", signal)
		wantCode(t, err, banger.CodeInvalid)
	}
	for _, signal := range []string{"STOP", "sigcont"} {
		if got, err := d.KillVM(t.Context(), "it", signal); err != nil || got.State != banger.Running {
			t.Errorf("%s: %+v, %v", signal, got, err)
		}
	}
	got, err := d.KillVM(t.Context(), vm.ID, "TERM")
	if err != nil || got.State != banger.Stopped || got.Exit == nil || got.Exit.Kind != banger.ExitKilled || got.Exit.Detail != "TERM" {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = d.KillVM(t.Context(), "it", "KILL")
	wantCode(t, err, banger.CodeNotRunning)
	report(t, w.check(d), "killed")
}

// A stop that waits for a stubborn guest is cut short by a kill.
func TestKillDuringStop(t *testing.T) {
	w := newWorld(t)
	w.defaults.Stop = time.Hour
	asked := make(chan struct{}, 8)
	w.host.Agent = func(g *fake.Guest) {
		g.Answer(func(req guest.Request) bool {
			if req.Op == guest.OpShutdown {
				asked <- struct{}{}
			}
			return req.Op != guest.OpShutdown
		})
	}
	d := w.open(nil)
	defer d.kill()
	d.make(t, banger.Spec{Name: "it"})
	stopped := make(chan error, 1)
	go func() {
		_, err := d.StopVM(t.Context(), "it", banger.StopOptions{})
		stopped <- err
	}()
	<-asked
	if got, err := d.KillVM(t.Context(), "it", "KILL"); err != nil || got.State != banger.Stopped {
		t.Errorf("%+v, %v", got, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	report(t, w.check(d), "killed")
}

// What waits in front of a kill may delete the VM that it ended: it did what it was
// for, and says so.
func TestKillThenDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.pauses.take(time.Minute)
		d := w.open(nil)
		d.make(t, banger.Spec{Name: "it"})
		var calls sync.WaitGroup
		calls.Go(func() {
			if _, err := d.StopVM(t.Context(), "it", banger.StopOptions{Timeout: time.Hour}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		calls.Go(func() { must(t, d.DeleteVM(t.Context(), "it")) })
		synctest.Wait()
		if got, err := d.KillVM(t.Context(), "it", "KILL"); err != nil || got.State != banger.Gone {
			t.Errorf("%+v, %v", got, err)
		}
		calls.Wait()
		report(t, w.check(d), "killed and deleted")
	})
}

func TestPruneAndStats(t *testing.T) {
	w, d := begun(t)
	d.make(t, banger.Spec{Name: "it"})
	wantCode(t, d.PruneVM(t.Context(), "it"), banger.CodeConflict)
	st, err := d.StatsVM(t.Context(), "it")
	if err != nil || st.State != banger.Running || st.RSS == 0 || st.CPUMS == 0 || st.Disk == 0 {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := d.StopVM(t.Context(), "it", banger.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	st, err = d.StatsVM(t.Context(), "it")
	if err != nil || st.State != banger.Stopped || st.Usage != (banger.Usage{}) {
		t.Errorf("%+v, %v", st, err)
	}
	must(t, d.PruneVM(t.Context(), "it"))
	wantCode(t, d.PruneVM(t.Context(), "it"), banger.CodeNotFound)
	report(t, w.check(d), "pruned")
}

// The journal tells a VM's life in order, each line with its operation.
func TestJournal(t *testing.T) {
	w := newWorld(t)
	var told []string
	ops := map[string]bool{}
	w.told = func(e banger.Event) {
		told = append(told, e.Stage)
		ops[e.Op] = true
		if e.Name != "it" || e.Op == "" || e.Time.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	d := w.open(nil)
	defer d.kill()
	d.make(t, banger.Spec{Name: "it"})
	_, err := d.SetVM(t.Context(), "it", banger.Change{VCPU: 2})
	must(t, err)
	_, err = d.RestartVM(t.Context(), "it", banger.StopOptions{}, nil)
	must(t, err)
	must(t, d.DeleteVM(t.Context(), "it"))
	want := "creating starting running set stopping stopped starting running deleting deleted"
	if got := strings.Join(told, " "); got != want {
		t.Errorf("told: %s", got)
	}
	if len(ops) != 4 {
		t.Errorf("%d operations", len(ops))
	}
}

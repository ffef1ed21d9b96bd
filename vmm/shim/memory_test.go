package shim_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/cgroup"
	"banger/host/proc"
	"banger/vmm/shim"
)

// bounded starts a fake VM that may have so much memory with its shim, where the host
// allows a bound.
func bounded(t *testing.T, id string, memory int64) (shim.Config, shim.Status) {
	t.Helper()
	if _, err := cgroup.Find(); err != nil {
		t.Skip("not run: ", err)
	}
	cfg := config(t, "serve")
	cfg.ID, cfg.Memory = id, memory
	st, err := shim.Spawn(t.Context(), exe(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end(t, cfg.Dir, st.VMM)
		if err := cgroup.Remove(context.Background(), filepath.Join(cfg.Dir, shim.GroupFile)); err != nil {
			t.Error(err)
		}
	})
	return cfg, st
}

func groupOf(t *testing.T, p banger.Process) cgroup.Group {
	t.Helper()
	g, err := cgroup.Of(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A VM that takes more memory than it may have ends, and its end says why.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	cfg, st := bounded(t, "00000000f011", 128<<20)
	if a, b := groupOf(t, st.VMM), groupOf(t, st.Shim); a != b || !strings.Contains(a.Dir, cfg.ID) {
		t.Errorf("the VMM is in %+v, the shim in %+v", a, b)
	}
	order(t, cfg.Dir, "eat")
	exit, err := shim.Wait(t.Context(), cfg.Dir)
	if err != nil || exit.Kind != banger.ExitFailed || exit.Status != 137 || !strings.Contains(exit.Detail, "128 MiB") {
		t.Errorf("it ended as %+v, %v", exit, err)
	}
}

// A VM that somebody kills isn't one that ran out of memory; a shim in a dead one's
// place is in the same group, and nothing is left of that in the end.
func TestGroupOutlivesShim(t *testing.T) {
	t.Parallel()
	cfg, st := bounded(t, "00000000f022", 256<<20)
	g := groupOf(t, st.VMM)
	if err := proc.Kill(st.Shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(t.Context(), st.Shim); err != nil {
		t.Fatal(err)
	}
	again, err := shim.Attach(t.Context(), exe(t), cfg.Dir, st.VMM)
	if err != nil {
		t.Fatal(err)
	}
	if now := groupOf(t, again.Shim); now != g || groupOf(t, st.VMM) != g {
		t.Errorf("the new shim is in %+v, the VMM in %+v, they were in %+v", now, groupOf(t, st.VMM), g)
	}
	end(t, cfg.Dir, st.VMM)
	if exit, err := shim.Wait(t.Context(), cfg.Dir); err != nil || strings.Contains(exit.Detail, "memory") {
		t.Errorf("it ended as %+v, %v", exit, err)
	}
	if err := cgroup.Remove(t.Context(), filepath.Join(cfg.Dir, shim.GroupFile)); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // systemd may have to see it
		if _, err := os.Stat(g.Dir); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is left", g.Dir)
		}
	}
}

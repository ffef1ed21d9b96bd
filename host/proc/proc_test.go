package proc_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/host/proc"
)

func sleeper(t *testing.T) (*exec.Cmd, banger.Process) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	p, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, p
}

func TestKillAndWait(t *testing.T) {
	t.Parallel()
	_, p := sleeper(t)
	if !proc.Alive(p) {
		t.Fatal("a living process isn't alive")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := proc.Wait(ctx, p); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("wait for a living process: %v", err)
	}
	if err := proc.Kill(p, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	// Nobody has waited for it: a zombie is not alive either.
	if proc.Alive(p) {
		t.Error("a zombie is alive")
	}
	if _, err := proc.Read(p.PID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("read of a zombie: %v", err)
	}
	if err := proc.Kill(p, unix.SIGKILL); err != nil {
		t.Errorf("kill of an ended process: %v", err)
	}
}

// A process that isn't the one recorded is never touched.
func TestAnotherProcessOfThatPID(t *testing.T) {
	t.Parallel()
	_, p := sleeper(t)
	for _, q := range []banger.Process{
		{PID: p.PID, StartTime: p.StartTime + 1, BootID: p.BootID},
		{PID: p.PID, StartTime: p.StartTime, BootID: "another boot"},
		{PID: p.PID}, {},
	} {
		if proc.Alive(q) {
			t.Errorf("%+v is alive", q)
		}
		if err := proc.Kill(q, unix.SIGKILL); err != nil {
			t.Errorf("kill %+v: %v", q, err)
		}
		if err := proc.Wait(t.Context(), q); err != nil {
			t.Errorf("wait for %+v: %v", q, err)
		}
	}
	if !proc.Alive(p) {
		t.Error("it was killed")
	}
}

// A process that is just becoming another program has no arguments for a moment.
// Whoever looks for it then finds it all the same.
func TestArgsWhileItBecomesAnother(t *testing.T) {
	for range 200 {
		cmd := exec.Command("sh", "-c", "exec sleep 1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var s proc.Sight
		for end := time.Now().Add(time.Minute); filepath.Base(s.Exe) != "sleep"; {
			var err error
			if s, err = proc.Look(cmd.Process.Pid); err != nil || time.Now().After(end) {
				t.Fatalf("it didn't become sleep: %+v, %v", s, err)
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if !slices.Equal(s.Argv, []string{"sleep", "1000"}) {
			t.Fatalf("its arguments are %q", s.Argv)
		}
	}
}

package take_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/guest/agent/tool"
	"banger/workspace/take"
)

// landIn is a process of its own that takes a guest's work and lands it. It is killed.
func landIn(ctx context.Context, record string) error {
	var r banger.Repository
	if err := json.Unmarshal([]byte(record), &r); err != nil {
		return err
	}
	work, err := take.Take(ctx, r, func(ctx context.Context, base string, to io.Writer) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, self)
		cmd.Args = []string{tool.Name, "work", r.Guest, base}
		cmd.Env = []string{"PATH=" + os.Getenv("GUEST_PATH")}
		cmd.Stdout = to
		return cmd.Run()
	}, take.Usual)
	if err != nil {
		return err
	}
	defer work.Close()
	l, err := work.Landing(ctx, "vm1")
	if err != nil {
		return err
	}
	return l.Do(ctx)
}

// Whoever takes and lands work may be killed at every step: before git runs, while it does,
// and after. The repository is whole then, the work has landed or it hasn't, and the next
// one lands it and removes what the killed one left.
func TestKilled(t *testing.T) {
	w := newWorld(t, first(t))
	w.edit()
	git(t, w.host, "config", "user.name", "h")
	git(t, w.host, "config", "user.email", "h@h")
	write(t, w.host+"/mine", "mine\n")
	git(t, w.host, "add", "mine")
	git(t, w.host, "commit", "-q", "-m", "mine") // so that it is a merge
	start := git(t, w.host, "rev-parse", "HEAD")
	real, err := exec.LookPath("git")
	must(t, err)
	dir := t.TempDir()
	count := filepath.Join(dir, "count")
	write(t, dir+"/git", fmt.Sprintf(`#!/bin/sh
n=$(($(cat %[1]s) + 1)); echo $n > %[1]s
if [ $n != "$KILL_AT" ]; then exec %[2]s "$@"; fi
case $KILL_WHEN in
before) kill -9 $PPID ;;
while) %[2]s "$@" & kill -9 $PPID; wait ;;
after) %[2]s "$@"; kill -9 $PPID ;;
esac
`, count, real))
	must(t, os.Chmod(dir+"/git", 0o755))
	self, err := os.Executable()
	must(t, err)
	record, err := json.Marshal(w.record)
	must(t, err)
	run := func(at int, when string) (calls int, err error) {
		t.Helper()
		write(t, count, "0\n")
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "GUEST_PATH="+os.Getenv("PATH"), "LAND_RECORD="+string(record),
			"KILL_AT="+strconv.Itoa(at), "KILL_WHEN="+when)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		out, err := cmd.CombinedOutput()
		text, _ := os.ReadFile(count)
		calls, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil && len(out) > 0 {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return calls, err
	}
	reset := func() {
		git(t, w.host, "reset", "-q", "--hard", start)
		for _, ref := range strings.Fields(git(t, w.host, "for-each-ref", "--format=%(refname)", "refs/banger")) {
			git(t, w.host, "update-ref", "-d", ref)
		}
	}
	total, err := run(0, "")
	must(t, err)
	landed := w.files(w.host)
	if landed["staged.txt"] == "" || total < 20 {
		t.Fatalf("%d runs of git landed %q", total, landed)
	}
	step := 3 // with 1, all of them: six minutes
	if testing.Short() {
		step = 15
	}
	for _, when := range []string{"before", "while", "after"} {
		for at := 1; at <= total; at += step {
			reset()
			before := w.files(w.host)
			_, err := run(at, when)
			if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Errorf("%s %d: it ended with %v", when, at, err)
			}
			w.settled() // the git that goes on alone comes to its end
			git(t, w.host, "fsck", "--strict")
			if now := w.files(w.host); !equal(now, before) && !equal(now, landed) {
				t.Errorf("killed %s run %d of git: the checkout is half of it: %q", when, at, now)
			}
			if status := git(t, w.host, "status", "--porcelain", "--untracked-files=no"); status != "" {
				t.Errorf("killed %s run %d of git: %s", when, at, status)
			}
			refs := git(t, w.host, "for-each-ref", "--format=%(refname)", "refs/banger")
			if n := len(strings.Fields(refs)); n != 0 && n != 2 {
				t.Errorf("killed %s run %d of git: the refs are %q", when, at, refs)
			}
			if _, err := run(0, ""); err != nil {
				t.Fatalf("after a kill %s run %d of git: %v", when, at, err)
			}
			if now := w.files(w.host); !equal(now, landed) {
				t.Fatalf("after a kill %s run %d of git: it landed %q", when, at, now)
			}
			if left, _ := filepath.Glob(os.Getenv("XDG_CACHE_HOME") + "/banger/packs/*"); len(left) > 0 {
				t.Errorf("killed %s run %d of git: the next one left %q", when, at, left)
			}
		}
	}
}

// settled waits until no git works in the host's repository any more: it holds locks there.
func (w *world) settled() {
	w.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		locks, _ := filepath.Glob(w.host + "/.git/*.lock")
		busy := false
		procs, _ := filepath.Glob("/proc/[0-9]*/cwd")
		for _, p := range procs {
			at, err := os.Readlink(p)
			busy = busy || err == nil && strings.HasPrefix(at, w.host)
		}
		if len(locks) == 0 && !busy {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("git doesn't end: %q", locks)
		}
		time.Sleep(time.Millisecond) // there is nothing to wait on: it is nobody's child
	}
}

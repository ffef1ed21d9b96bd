package tests_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // to write what a newer program would have written
)

// bangerd is the real daemon with directories of its own. No VM is made.
type bangerd struct {
	*testing.T
	bin, dir string
}

func newBangerd(t *testing.T) *bangerd {
	t.Helper()
	b := &bangerd{T: t, bin: t.TempDir(), dir: t.TempDir()}
	if err := os.Link(shipped, filepath.Join(b.bin, "bangerd")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"banger-shim", "banger-agent"} { // it wants them there, and starts neither
		if err := os.WriteFile(filepath.Join(b.bin, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *bangerd) database() string { return filepath.Join(b.dir, "state/banger/banger.db") }

// command is one with a runtime directory of its own, as each login has one.
func (b *bangerd) command(runtime string, args ...string) *exec.Cmd {
	b.Helper()
	run := filepath.Join(b.dir, runtime)
	if err := os.MkdirAll(run, 0o700); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(b.bin, "bangerd"), args...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_RUNTIME_DIR="+run, "XDG_CONFIG_HOME="+filepath.Join(b.dir, "config"))
	if dir := os.Getenv("BANGER_COVERDIR"); dir != "" { // go test -cover has a GOCOVERDIR of its own
		cmd.Env = append(cmd.Env, "GOCOVERDIR="+dir)
	}
	for _, kind := range []string{"STATE", "DATA", "CACHE"} {
		cmd.Env = append(cmd.Env, "XDG_"+kind+"_HOME="+filepath.Join(b.dir, strings.ToLower(kind)))
	}
	return cmd
}

// start runs a daemon until it serves; end ends it as kill -TERM does.
func (b *bangerd) start(runtime string) (end func()) {
	b.Helper()
	cmd := b.command(runtime)
	log, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	for lines.Scan() && !strings.Contains(lines.Text(), "serving") {
	}
	if lines.Err() != nil {
		b.Fatal(lines.Err())
	}
	return func() {
		b.Helper()
		_ = cmd.Process.Signal(os.Interrupt)
		for lines.Scan() {
		}
		if err := cmd.Wait(); err != nil {
			b.Errorf("the daemon ended with %v", err)
		}
	}
}

// refused runs a daemon that must end by itself with an error, and returns what
// it said.
func (b *bangerd) refused(cmd *exec.Cmd) string {
	b.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	stop := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	if err := cmd.Wait(); err == nil {
		b.Errorf("it wasn't refused: %s", out.String())
	}
	return out.String()
}

func (b *bangerd) check(want int) {
	b.Helper()
	out, err := b.command("run", "--check-migrations").CombinedOutput()
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got, err = exit.ExitCode(), nil
	}
	if err != nil || got != want {
		b.Errorf("--check-migrations says %d, want %d: %v: %s", got, want, err, out)
	}
}

func (b *bangerd) write(query string) {
	b.Helper()
	db, err := sql.Open("sqlite", b.database())
	if err == nil {
		_, err = db.ExecContext(context.Background(), query)
	}
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}

// The database a daemon finds is the one it can read, or it says what to do and
// changes nothing.
func TestDatabases(t *testing.T) {
	b := newBangerd(t)
	b.check(1)
	if _, err := os.Stat(b.database()); err == nil {
		t.Error("the check made a database")
	}
	end := b.start("run")
	b.check(0) // beside a daemon
	end()
	b.check(0)
	b.write("PRAGMA user_version=0")
	b.check(1)
	b.write("PRAGMA user_version=9999")
	b.check(2)
	same := func(what string, cmd *exec.Cmd, words ...string) {
		t.Helper()
		before, err := os.ReadFile(b.database())
		if err != nil {
			t.Fatal(err)
		}
		said := b.refused(cmd)
		for _, w := range words {
			if !strings.Contains(said, w) {
				t.Errorf("%s: it doesn't say %q: %s", what, w, said)
			}
		}
		if after, err := os.ReadFile(b.database()); err != nil || !bytes.Equal(after, before) {
			t.Errorf("%s: the database was changed (%v)", what, err)
		}
	}
	same("newer", b.command("run"), "9999", "newer banger")
	disk := filepath.Join(b.dir, "state/banger/vms/0123456789ab/disk.ext4")
	if err := os.MkdirAll(filepath.Dir(disk), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{disk, b.database()} {
		if err := os.WriteFile(path, bytes.Repeat([]byte("damaged "), 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.check(2)
	same("damaged", b.command("run"), "is damaged", "restore it from a copy")
	if _, err := os.Stat(disk); err != nil {
		t.Errorf("and a disk is gone: %v", err)
	}
}

// Two daemons on one state directory: the second one ends, with another runtime
// directory too.
func TestSecondDaemon(t *testing.T) {
	b := newBangerd(t)
	end := b.start("run")
	defer end()
	for _, runtime := range []string{"run", "elsewhere"} {
		if out, err := b.command(runtime).CombinedOutput(); err != nil || strings.Contains(string(out), "serving") {
			t.Errorf("beside a daemon that answers: %v: %s", err, out)
		}
	}
}

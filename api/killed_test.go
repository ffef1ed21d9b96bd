package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"banger"
	"banger/api"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/test/clienttest"
)

// asDaemon makes this program a daemon, which a test can kill, whose one VM's agent is in
// the test's own process.
const asDaemon = "BANGER_TEST_DAEMON"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asDaemon); dir != "" {
		l, err := api.Listen(filepath.Join(dir, "run", "bangerd.sock"))
		if err == nil {
			s := &services{
				vm:   func(context.Context, string) (banger.VM, error) { return aVM, nil },
				vms:  func(context.Context) ([]banger.VM, error) { return []banger.VM{aVM}, nil },
				dial: func(ctx context.Context, _ string) (net.Conn, error) { return agentIn(dir).DialContext(ctx) },
			}
			err = (&api.Server{Services: s.parts(nil), Log: slog.New(slog.DiscardHandler)}).Serve(context.Background(), l)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// agentIn is the directory of an agent's socket.
type agentIn string

func (d agentIn) DialContext(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(string(d), "agent"))
}

// A client of Python's standard library follows a command while each daemon that answers
// it is killed, and has every byte and the status in the end. test/crash does it with a VM.
func TestClientOutlivesDaemons(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { _ = (&agent.Server{Sessions: &session.Table{}}).Serve(l) }()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// What starts the next daemon, as the command line does. It ends with the agent.
	const start = `#!/bin/sh
rm -f %[1]s/run/bangerd.sock
%[2]s=%[1]s %[3]s >/dev/null 2>&1 &
until test -e %[1]s/run/bangerd.sock; do sleep 0.01; done
echo $! >> %[1]s/pids
`
	if err := os.WriteFile(filepath.Join(dir, "banger"), fmt.Appendf(nil, start, dir, asDaemon, self), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { killAll(t, filepath.Join(dir, "pids")) })
	if out, err := exec.Command(filepath.Join(dir, "banger")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	env := append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	socket := filepath.Join(dir, "run", "bangerd.sock")
	if said := clienttest.Python(t, clienttest.PageCode(t), env, "../test/crash/testdata/attach.py", socket, "web", "3"); said != "4 daemons\n" {
		t.Errorf("it says %q", said)
	}
}

// killAll ends the daemons that a file lists, those that live.
func killAll(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	for word := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Error(err)
			continue
		}
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); strings.Contains(exe, "api.test") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

package agent_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"banger/guest"
	"banger/guest/agent"
	"banger/guest/agent/session"
)

// output runs a script and returns what it wrote.
func output(t *testing.T, c *guest.Client, spec guest.ExecSpec, stdin string) string {
	t.Helper()
	var out bytes.Buffer
	st, err := c.Exec(deadline(t), spec, guest.IO{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &out})
	if err != nil || st.Code != 0 {
		t.Fatalf("%+v, %v, %s", st, err, &out)
	}
	return out.String()
}

func TestNoCommandIsTheLoginShell(t *testing.T) {
	c := openAgent(t, &agent.Server{})
	got := output(t, c, guest.ExecSpec{Stdin: true}, "echo $0\n")
	if !strings.HasPrefix(got, "-") {
		t.Errorf("$0 is %q", got)
	}
}

// TestChildrenAreNoHarderToKill: the agent's own OOM score isn't inherited.
func TestChildrenAreNoHarderToKill(t *testing.T) {
	const score = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(score)
	must(t, err)
	if err := os.WriteFile(score, []byte("100"), 0); err != nil {
		t.Skip("this process's OOM score can't be changed: ", err)
	}
	t.Cleanup(func() { must(t, os.WriteFile(score, before, 0)) })
	c := openAgent(t, &agent.Server{})
	if got := output(t, c, guest.ExecSpec{Argv: []string{"cat", score}}, ""); got != "0\n" {
		t.Errorf("a command's score is %q", got)
	}
	if own, _ := os.ReadFile(score); string(own) != "100\n" {
		t.Errorf("the agent's own score is now %q", own)
	}
}

func TestSessionsHaveTheirOwnGroup(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "cgroup2", 0, ""); err != nil {
		t.Skip("no cgroup v2 can be mounted here: ", err)
	}
	name := fmt.Sprintf("banger-test-%d", os.Getpid())
	must(t, os.Mkdir(dir+"/"+name, 0o755))
	s := &agent.Server{Sessions: &session.Table{Cgroup: dir + "/" + name + "/exec"}}
	c := openAgent(t, s)
	t.Cleanup(func() {
		for _, d := range []string{"/exec/1", "/exec/2", "/exec", ""} {
			if err := os.Remove(dir + "/" + name + d); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		}
		must(t, syscall.Unmount(dir, syscall.MNT_DETACH))
	})
	group := func() string {
		_, own, _ := strings.Cut(output(t, c, guest.ExecSpec{Argv: []string{"cat", "/proc/self/cgroup"}}, ""), "0::")
		return own
	}
	if got := group(); !strings.HasSuffix(got, "/"+name+"/exec/1\n") {
		t.Errorf("a command's group is %q", got)
	}
	// An empty group is used again, not made anew.
	for range 10 {
		if got := group(); !strings.HasSuffix(got, "/exec/1\n") && !strings.HasSuffix(got, "/exec/2\n") {
			t.Errorf("a later command's group is %q", got)
		}
	}
	// A group that was taken away is done without.
	for _, d := range []string{"/exec/1", "/exec/2"} {
		_ = os.Remove(dir + "/" + name + d)
	}
	group()
	group()
}

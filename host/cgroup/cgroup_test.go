package cgroup_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
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
	"banger/host/cgroup"
)

const bound = 96 << 20

// TestMain makes a copy of this program one that goes into a group, says which, and
// then does a line at a time what it is told.
func TestMain(m *testing.M) {
	if id := os.Getenv("BANGER_TEST_ENTER"); id != "" {
		if err := enter(id); err != nil {
			fmt.Println("error:", err)
		}
		return
	}
	os.Exit(m.Run())
}

func enter(id string) error {
	way, err := cgroup.Find()
	if err != nil {
		return err
	}
	noted := os.Getenv("BANGER_TEST_NOTE")
	var g cgroup.Group
	if pid, _ := strconv.Atoi(os.Getenv("BANGER_TEST_JOIN")); pid != 0 {
		g, err = way.Join(context.Background(), id, pid)
	} else {
		g, err = way.Enter(context.Background(), id, bound, noted)
	}
	if err != nil {
		return err
	}
	fmt.Println(g.Dir)
	in := bufio.NewScanner(os.Stdin)
	var held [][]byte
	for in.Scan() {
		mib, _ := strconv.Atoi(in.Text())
		b := make([]byte, mib<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
		fmt.Println(len(held), "done")
	}
	return nil
}

// member is a process in a group.
type member struct {
	t          *testing.T
	cmd        *exec.Cmd
	in         io.WriteCloser
	out        *bufio.Reader
	left       bool   // the end doesn't remove the group
	dir, noted string // noted: the file that says so
}

func start(t *testing.T, env ...string) *member {
	t.Helper()
	if _, err := cgroup.Find(); err != nil {
		t.Skip("not run: ", err)
	}
	m := &member{t: t, cmd: exec.Command(os.Args[0]), noted: filepath.Join(t.TempDir(), "cgroup")}
	m.cmd.Env = append(append(os.Environ(), "BANGER_TEST_NOTE="+m.noted), env...)
	m.cmd.Stderr = os.Stderr
	var err error
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.out = bufio.NewReader(out)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.end)
	m.dir = m.line()
	if strings.HasPrefix(m.dir, "error:") {
		t.Fatal(m.dir)
	}
	return m
}

func (m *member) line() string {
	line, err := m.out.ReadString('\n')
	if err != nil && err != io.EOF {
		m.t.Error(err)
	}
	return strings.TrimSpace(line)
}

func (m *member) end() {
	_ = m.in.Close()
	_ = m.cmd.Wait()
	if !m.left {
		if err := cgroup.Remove(context.Background(), m.noted); err != nil {
			m.t.Error(err)
		}
	}
}

func (m *member) take(mib int) string {
	fmt.Fprintln(m.in, mib)
	return m.line()
}

// A process and who joins it have a bound together. The kernel ends who goes beyond
// it, and the group says so; nothing is left.
func TestBound(t *testing.T) {
	id := newID(t)
	first := start(t, "BANGER_TEST_ENTER="+id)
	t.Log(first.dir)
	g, err := cgroup.Of(first.cmd.Process.Pid)
	if err != nil || g.Dir != first.dir || filepath.Base(g.Dir) != "banger-"+id+".scope" {
		t.Fatalf("%+v, %v, it says %s", g, err, first.dir)
	}
	if b, err := g.Bound(); err != nil || b != bound {
		t.Errorf("the bound is %d, %v", b, err)
	}
	second := start(t, "BANGER_TEST_ENTER="+id, "BANGER_TEST_JOIN="+strconv.Itoa(first.cmd.Process.Pid))
	if second.dir != first.dir {
		t.Errorf("the second is in %s", second.dir)
	}
	// Little, as the kernel ends the largest: with the race detector it has three times that.
	if got := first.take(8); got != "1 done" || g.Kills() != 0 {
		t.Fatalf("%q, %d killed", got, g.Kills())
	}
	if used, err := g.Usage(); err != nil || used < 8<<20 {
		t.Errorf("%d bytes are used, %v", used, err)
	}
	if got := second.take(200); got != "" {
		t.Errorf("beyond the bound it says %q", got)
	}
	_ = second.cmd.Wait()
	if st := second.cmd.ProcessState.Sys().(syscall.WaitStatus); st.Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", second.cmd.ProcessState)
	}
	if n := g.Kills(); n != 1 {
		t.Errorf("the group says that %d were killed", n)
	}
	if got := first.take(1); got != "2 done" {
		t.Errorf("the other says %q", got)
	}
	first.end()
	gone(t, first.dir)
}

// gone waits until systemd, where the group is one of its, has seen the end.
func gone(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is left", dir)
		}
	}
}

// A group that nobody has removed is found once its processes have ended, not before,
// and removed by its VM's name.
func TestLeftovers(t *testing.T) {
	id := newID(t)
	m := start(t, "BANGER_TEST_ENTER="+id)
	if _, err := os.Stat(m.noted); err != nil {
		t.Skip("not run: systemd leaves none")
	}
	if found := mine(t, id); len(found) != 0 {
		t.Errorf("found while it lives: %+v", found)
	}
	if err := cgroup.Remove(t.Context(), m.noted); err == nil {
		t.Error("removed while it lives")
	}
	m.left = true
	m.end()
	found := mine(t, id)
	if len(found) != 1 || found[0].Name != m.dir || found[0].Kind != "cgroup" {
		t.Errorf("found %+v", found)
	}
	if err := (cgroup.Leftovers{}).RemoveObjects(t.Context(), newID(t)); err != nil || len(mine(t, id)) != 1 {
		t.Errorf("another VM's: %v", err)
	}
	if err := (cgroup.Leftovers{}).RemoveObjects(t.Context(), id); err != nil || len(mine(t, id)) != 0 {
		t.Errorf("it isn't removed: %v", err)
	}
	if err := cgroup.Remove(t.Context(), m.noted); err != nil {
		t.Errorf("again: %v", err)
	}
}

func mine(t *testing.T, id string) (found []banger.Found) {
	t.Helper()
	all, err := (cgroup.Leftovers{}).Objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.VM == id {
			found = append(found, f)
		}
	}
	return found
}

func newID(t *testing.T) string {
	t.Helper()
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	id := hex.EncodeToString(b[:])
	if !banger.IsID(id) {
		t.Fatalf("%q is no id", id)
	}
	return id
}

func TestOnlyOurs(t *testing.T) {
	dir, note := t.TempDir(), filepath.Join(t.TempDir(), "cgroup")
	if err := os.WriteFile(note, []byte(dir), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cgroup.Remove(t.Context(), note); err == nil {
		t.Error("a directory of another's was removed")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

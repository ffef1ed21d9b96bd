package group

import (
	"os"
	"testing"
)

// A group that is used again has killed nobody yet.
func TestGroupsForgetKills(t *testing.T) {
	parent := t.TempDir() + "/banger.exec"
	var g Groups
	first := g.Take(parent)
	if first == nil {
		t.Fatal("no group")
	}
	if err := os.WriteFile(first.path+"/memory.events", []byte("low 0\noom_kill 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.Give(first) // its session ended otherwise: nobody asked
	second := g.Take(parent)
	if second != first {
		t.Fatal("the group isn't used again")
	}
	if second.OOMKilled() {
		t.Error("the next session is told that it ran out of memory")
	}
	if err := os.WriteFile(first.path+"/memory.events", []byte("low 0\noom_kill 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !second.OOMKilled() {
		t.Error("its own kill isn't told")
	}
}

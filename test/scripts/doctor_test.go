package tests_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// doctor looks at this host through the real daemon's program, changes nothing,
// and ends with a status that says ready or not.
func TestDoctor(t *testing.T) {
	b := newBangerd(t)
	banger := exec.Command("go", "build", "-o", b.bin+"/", "banger/cmd/banger")
	banger.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := banger.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	doctor := func(path string, args ...string) (status int, out string) {
		cmd := b.command("run", append([]string{"doctor"}, args...)...)
		cmd.Path, cmd.Args[0] = filepath.Join(b.bin, "banger"), "banger"
		cmd.Env = append(cmd.Env, "PATH="+path)
		said, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(said)
	}
	type report struct {
		Ready  bool
		Checks []struct{ Name, Level, Found, Mend string }
	}
	read := func(out string) (r report) {
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return r
	}
	status, out := doctor(os.Getenv("PATH"), "--json")
	r := read(out)
	if r.Ready != (status == 0) || len(r.Checks) < 10 {
		t.Errorf("status %d: %s", status, out)
	}
	status, out = doctor("/nowhere", "--json")
	r = read(out)
	i := slices.IndexFunc(r.Checks, func(c struct{ Name, Level, Found, Mend string }) bool { return c.Name == "qemu" })
	if status != 6 || r.Ready || i < 0 || r.Checks[i].Level != "fail" || !strings.Contains(r.Checks[i].Found, "no qemu-system-x86_64") {
		t.Errorf("without QEMU: status %d: %s", status, out)
	}
	old := t.TempDir()
	if err := os.WriteFile(filepath.Join(old, "qemu-system-x86_64"), []byte("#!/bin/sh\necho QEMU emulator version 4.2.1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	status, out = doctor(old+":"+os.Getenv("PATH"), "--json")
	r = read(out)
	i = slices.IndexFunc(r.Checks, func(c struct{ Name, Level, Found, Mend string }) bool { return c.Name == "qemu" })
	if status != 6 || r.Ready || i < 0 || r.Checks[i].Level != "fail" || !strings.Contains(r.Checks[i].Found, "is version 4.2, at least") {
		t.Errorf("with an old QEMU: status %d: %s", status, out)
	}
	if status, out = doctor("/nowhere", "--report"); status != 0 || !strings.Contains(out, "FAIL  qemu") || strings.Contains(out, b.dir) {
		t.Errorf("report: status %d: %s", status, out)
	}
	if err := os.Remove(filepath.Join(b.bin, "bangerd")); err != nil {
		t.Fatal(err)
	}
	if status, out = doctor("/nowhere"); status != 6 || !strings.Contains(out, "FAIL  programs: bangerd is neither") {
		t.Errorf("without bangerd: status %d: %s", status, out)
	}
	for _, dir := range []string{"state", "data", "cache", "config"} {
		if _, err := os.Stat(filepath.Join(b.dir, dir)); err == nil {
			t.Errorf("doctor made a %s directory", dir)
		}
	}
}

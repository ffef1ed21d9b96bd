package tests_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// doctor looks at this host through the real daemon's program, changes nothing,
// and ends with a status that says ready or not.
func TestDoctor(t *testing.T) {
	b := newBangerd(t)
	if err := os.Link(filepath.Join(bin, "banger"), filepath.Join(b.bin, "banger")); err != nil {
		t.Fatal(err)
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
	read := func(out string) report {
		all, err := results[report](out)
		if len(all) != 1 { // beside it there may be an error: this host isn't ready
			t.Fatalf("%v: %s", err, out)
		}
		return all[0]
	}
	status, out := doctor(os.Getenv("PATH"), "--json")
	r := read(out)
	if r.Ready != (status == 0) || len(r.Checks) < 10 {
		t.Errorf("status %d: %s", status, out)
	}
	status, out = doctor("/nowhere", "--json")
	r = read(out)
	i := slices.IndexFunc(r.Checks, func(c struct{ Name, Level, Found, Mend string }) bool { return c.Name == "qemu" })
	if r.Ready != (status == 0) || i < 0 || r.Checks[i].Level != "note" || !strings.Contains(r.Checks[i].Found, "no qemu-system-x86_64") || !strings.Contains(r.Checks[i].Mend, "banger hypervisor install qemu") {
		t.Errorf("without QEMU: status %d: %s", status, out)
	}
	old := t.TempDir()
	if err := os.WriteFile(filepath.Join(old, "qemu-system-x86_64"), []byte("#!/bin/sh\necho QEMU emulator version 4.2.1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	status, out = doctor(old+":"+os.Getenv("PATH"), "--json")
	r = read(out)
	i = slices.IndexFunc(r.Checks, func(c struct{ Name, Level, Found, Mend string }) bool { return c.Name == "qemu" })
	if r.Ready != (status == 0) || i < 0 || r.Checks[i].Level != "note" || !strings.Contains(r.Checks[i].Found, "is version 4.2, at least") {
		t.Errorf("with an old QEMU: status %d: %s", status, out)
	}
	if status, out = doctor("/nowhere", "--report"); status != 0 || !strings.Contains(out, "note  qemu") || strings.Contains(out, b.dir) {
		t.Errorf("report: status %d: %s", status, out)
	}
	// The directory of a template that is being made beside one that is there.
	for path, text := range map[string]string{
		"0123456789ab/template.json": `{"id": "0123456789ab", "kind": "0123456789abcdef", "files": {"state": {"size": 1}}}`,
		".making-ba9876543210/lock":  "",
	} {
		path = filepath.Join(b.dir, "cache/banger/templates", path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	_, out = doctor("/nowhere", "--json")
	r = read(out)
	i = slices.IndexFunc(r.Checks, func(c struct{ Name, Level, Found, Mend string }) bool { return c.Name == "warm start" })
	if i < 0 || r.Checks[i].Level != "ok" || !strings.Contains(r.Checks[i].Found, "templates: 1;") {
		t.Errorf("beside a template: %s", out)
	}
	if err := os.RemoveAll(filepath.Join(b.dir, "cache/banger/templates/0123456789ab")); err != nil {
		t.Fatal(err)
	}
	_, out = doctor("/nowhere", "--json")
	if !strings.Contains(out, "there are no templates yet") {
		t.Errorf("beside one that is being made: %s", out)
	}
	if err := os.RemoveAll(filepath.Join(b.dir, "cache")); err != nil {
		t.Fatal(err)
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

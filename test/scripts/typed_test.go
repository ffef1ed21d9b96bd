package tests_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Whoever knows docker or lima guesses how to use banger, or is told.
func TestTyped(t *testing.T) {
	s := newShell(t)
	if err := os.WriteFile(filepath.Join(s.dir, "thing"), []byte("a thing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "vars"), []byte("A=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile("testdata/typed.txt")
	if err != nil {
		t.Fatal(err)
	}
	s.must("banger vm create -q --name web --memory 256")
	n := 0
	for line := range strings.Lines(string(list)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		n++
		typed, must, _ := strings.Cut(line, " => ")
		kind, text, ok := strings.Cut(must, ":")
		text = strings.TrimSpace(text)
		if !ok {
			t.Fatalf("it can't be read: %s", line)
		}
		status, out, errs := s.run("banger " + typed + " </dev/null")
		switch {
		case kind == "told":
			if status != 2 && status != 3 && status != 125 || !strings.Contains(errs, text) || out != "" {
				t.Errorf("%s: status %d, and the answer doesn't say %q: %s%s", typed, status, text, out, errs)
			}
		case kind == "works":
			if status != 0 || !strings.Contains(out, text) {
				t.Errorf("%s: status %d, and no %q in %s%s", typed, status, text, out, errs)
			}
		case kind != strconv.Itoa(status) || !strings.Contains(out+errs, text):
			t.Errorf("%s: status %d, and no %q in %s%s", typed, status, text, out, errs)
		}
	}
	if n < 30 {
		t.Errorf("there are %d lines", n)
	}
	s.must("banger rm $(banger ps -q) 2>&1 || true")
}

package git_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"banger/workspace/git"
)

func TestVersion(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	for said, want := range map[string][3]int{"git version 2.39.5": {2, 39, 5}, "git version 2.50.1.windows.1": {2, 50, 1}, "git version 2.30.GIT": {2, 30, 0}, "git version 3": {}, "hello": {}} {
		script := "#!/bin/sh\necho '" + said + "'\n"
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o700)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := git.Version(t.Context()); (err != nil) != (want == [3]int{}) || err == nil && got != want {
			t.Errorf("%q: %v, %v", said, got, err)
		}
	}
	if slices.Compare(git.Oldest[:], []int{2, 9, 9}) < 0 {
		t.Error("versions are compared as texts")
	}
	if err := os.Remove(filepath.Join(dir, "git")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := git.Version(t.Context()); err == nil {
		t.Error("no git has a version")
	}
}

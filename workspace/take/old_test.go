package take_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/workspace/take"
)

// A git that is too old to be trusted with what a guest sends isn't.
func TestOldGit(t *testing.T) {
	w := newWorld(t, first(t))
	dir := t.TempDir()
	write(t, dir+"/git", "#!/bin/sh\n[ \"$1\" != version ] || { echo git version 2.30.2; exit; }\nPATH="+os.Getenv("PATH")+" exec git \"$@\"\n")
	must(t, os.Chmod(dir+"/git", 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	_, err := take.Take(t.Context(), w.record, w.source, take.Usual)
	if banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "git is version 2.30.2; taking work from a VM needs 2.35.2 or later") {
		t.Errorf("it says %v", err)
	}
}

// A repository whose path can't be told to git is refused.
func TestOddPath(t *testing.T) {
	w := newWorld(t, first(t))
	odd := filepath.Join(filepath.Dir(w.host), "a\nb")
	must(t, os.Rename(w.host, odd))
	w.record.Path = odd
	if _, err := take.Take(t.Context(), w.record, w.source, take.Usual); banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "can't be that of a repository whose work comes back") {
		t.Errorf("it says %v", err)
	}
}

// What isn't finished in the checkout, or isn't committed, keeps work from landing; so does
// a history that was written anew in the guest.
func TestLandsNot(t *testing.T) {
	w := newWorld(t, first(t))
	w.edit()
	work := w.take()
	lands := func(want string) {
		t.Helper()
		if _, err := work.Landing(t.Context(), "vm1"); banger.CodeOf(err) != banger.CodeConflict && banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("it says %v, want %q", err, want)
		}
	}
	write(t, w.host+"/a.txt", "changed\n")
	lands("has changes that aren't committed")
	git(t, w.host, "commit", "-q", "-a", "-m", "mine")
	lands("git doesn't know your")
	must(t, os.Mkdir(w.host+"/.git/rebase-merge", 0o755))
	lands("has a rebase that isn't finished")

	w = newWorld(t, first(t))
	write(t, w.guest+"/a.txt", "amended\n")
	git(t, w.guest, "commit", "-q", "-a", "--amend", "-m", "anew")
	work = w.take()
	lands("don't go back to any of yours")

	w = newWorld(t, first(t))
	w.edit()
	work = w.take()
	write(t, w.host+"/untracked", "mine\n")
	l, err := work.Landing(t.Context(), "vm1")
	must(t, err)
	if err := l.Do(t.Context()); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("a file in the way: %v", err)
	}
	if text, _ := os.ReadFile(w.host + "/untracked"); string(text) != "mine\n" || git(t, w.host, "status", "--porcelain") != "?? untracked" {
		t.Errorf("the file in the way is %q", text)
	}
}

package take_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/workspace/take"
)

// A file that the host's git ignores is the user's all the same: work that has one of its
// name, or one in its place, doesn't land over it.
func TestLandsOverNothingIgnored(t *testing.T) {
	lands := func(what string, w *world, files map[string]string) {
		t.Helper()
		work := w.take()
		for name, text := range files {
			write(t, w.host+"/"+name, text)
		}
		l, err := work.Landing(t.Context(), "vm1")
		must(t, err)
		if err := l.Do(t.Context()); banger.CodeOf(err) != banger.CodeConflict {
			t.Errorf("%s: %v", what, err)
		}
		for name, want := range files {
			if text, err := os.ReadFile(w.host + "/" + name); string(text) != want {
				t.Errorf("%s: %s is %q, %v", what, name, text, err)
			}
		}
	}
	w := newWorld(t, first(t))
	write(t, w.guest+"/ignored", "the guest's\n")
	git(t, w.guest, "add", "-f", "ignored")
	lands("a file", w, map[string]string{"ignored": "mine\n"})

	w = newWorld(t, first(t))
	write(t, w.guest+"/ignored", "the guest's\n")
	git(t, w.guest, "add", "-f", "ignored")
	lands("a directory", w, map[string]string{"ignored/secret": "mine\n"})

	for what, files := range map[string]map[string]string{
		"a file before the first commit":               {".git/info/exclude": "dir\n", "dir/file": "mine\n"},
		"one above before the first commit":            {".git/info/exclude": "dir\n", "dir": "mine\n"},
		"one that isn't ignored, before the first one": {"dir/file/below": "mine\n"},
	} {
		w = newWorld(t, func(string) {})
		write(t, w.guest+"/dir/file", "the guest's\n")
		lands(what, w, files)
	}
	w = newWorld(t, func(string) {})
	write(t, w.guest+"/dir/file", "the guest's\n")
	work := w.take()
	must(t, os.Mkdir(w.host+"/dir", 0o755))
	l, err := work.Landing(t.Context(), "vm1")
	must(t, err)
	must(t, l.Do(t.Context()))
	w.same("the first commit", w.host)
}

// What a repository's configuration wants of merges is not what is done.
func TestLandsWhole(t *testing.T) {
	for _, options := range []string{"--verify-signatures", "--squash", "--no-commit --no-ff", "-s ours", "--autostash --no-such-option"} {
		w := newWorld(t, first(t))
		w.edit()
		witness := t.TempDir() + "/ran"
		program := t.TempDir() + "/gpg"
		write(t, program, "#!/bin/sh\ntouch "+witness+"\nexit 1\n")
		must(t, os.Chmod(program, 0o755))
		git(t, w.host, "config", "branch.main.mergeOptions", options)
		git(t, w.host, "config", "gpg.program", program)
		l, err := w.take().Landing(t.Context(), "vm1")
		must(t, err)
		if err := l.Do(t.Context()); err != nil || git(t, w.host, "rev-parse", "HEAD") != l.Commit {
			t.Errorf("%s: %v", options, err)
		}
		if status := git(t, w.host, "status", "--porcelain"); status != "" {
			t.Errorf("%s: %s", options, status)
		}
		if _, err := os.Lstat(witness); err == nil {
			t.Errorf("%s: gpg.program ran", options)
		}
	}
}

// Work lands where it was looked at, and nowhere else.
func TestLandsWhereLooked(t *testing.T) {
	for what, move := range map[string][]string{
		"another branch": {"checkout", "-q", "-b", "other"},
		"another commit": {"reset", "-q", "--hard", "HEAD^"},
	} {
		w := newWorld(t, func(dir string) {
			first(t)(dir)
			git(t, dir, "commit", "-q", "--allow-empty", "-m", "second")
		})
		w.edit()
		l, err := w.take().Landing(t.Context(), "vm1")
		must(t, err)
		git(t, w.host, move...)
		at := git(t, w.host, "rev-parse", "HEAD")
		if err := l.Do(t.Context()); banger.CodeOf(err) != banger.CodeConflict || !strings.Contains(err.Error(), "at another branch or commit now") {
			t.Errorf("%s: %v", what, err)
		}
		if now := git(t, w.host, "rev-parse", "HEAD"); now != at {
			t.Errorf("%s: it is at %s", what, now)
		}
	}
}

// A branch that is checked out doesn't move under its files, by whatever name.
func TestKeepsBranches(t *testing.T) {
	w := newWorld(t, first(t))
	w.edit()
	work := w.take()
	at := git(t, w.host, "rev-parse", "main")
	for _, ref := range []string{"refs/heads/alias", "refs/banger/vm1/work", "refs/banger/vm1/head"} {
		git(t, w.host, "symbolic-ref", ref, "refs/heads/main")
	}
	must(t, work.Keep(t.Context(), "vm1", "alias"))
	if now := git(t, w.host, "rev-parse", "main"); now != at {
		t.Errorf("main is at %s, and was at %s", now, at)
	}
	if got := git(t, w.host, "rev-parse", "alias"); got != work.Tip {
		t.Errorf("alias is at %s, not at %s", got, work.Tip)
	}

	w = newWorld(t, func(string) {})
	write(t, w.guest+"/new", "x\n")
	if err := w.take().Keep(t.Context(), "vm1", "main"); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("the branch of the first commit: %v", err)
	}
}

// A guest's directories have no modes that keep this host from reading or removing them.
func TestDirectoriesOfATar(t *testing.T) {
	w := newWorld(t, first(t))
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	must(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "shut/", Mode: 0o644}))
	must(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "shut/file", Size: 2, Mode: 0o644}))
	_, err := tw.Write([]byte("x\n"))
	must(t, errors.Join(err, tw.Close()))
	work, err := take.Take(t.Context(), w.record, says([]byte("{}\n"), b.Bytes()), take.Usual)
	must(t, err)
	defer work.Close()
	dirs, _ := filepath.Glob(os.Getenv("XDG_CACHE_HOME") + "/banger/packs/*/files/shut")
	if len(dirs) != 1 {
		t.Fatalf("the directories are %q", dirs)
	}
	if info, err := os.Stat(dirs[0]); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// While this host works, a guest may be silent.
func TestHostIsSlow(t *testing.T) {
	in := take.NewWatched(strings.NewReader("ab"), take.Usual, func(error) {})
	if _, err := io.ReadFull(in, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if take.Waits(in) {
		t.Error("its silence is counted while nobody reads")
	}
}

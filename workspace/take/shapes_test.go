package take_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/workspace/take"
)

// shapes are what repositories look like, on the host and in the guest.
var shapes = map[string]struct {
	flags []string
	host  func(t *testing.T, dir string)
	guest func(w *world)
}{
	"empty": {guest: func(w *world) { write(w.T, w.guest+"/new", "x\n") }},
	"empty, then a commit": {guest: func(w *world) {
		write(w.T, w.guest+"/new", "x\n")
		git(w.T, w.guest, "add", ".")
		git(w.T, w.guest, "commit", "-q", "-m", "root")
		write(w.T, w.guest+"/newer", "x\n")
	}},
	"detached": {host: func(t *testing.T, dir string) { git(t, dir, "checkout", "-q", "--detach") }, guest: (*world).edit},
	"changed before": {host: func(t *testing.T, dir string) {
		write(t, dir+"/a.txt", "changed on the host\n")
		write(t, dir+"/staged-here", "x\n")
		git(t, dir, "add", "staged-here")
		must(t, os.Remove(dir+"/run.sh"))
	}, guest: func(w *world) { write(w.T, w.guest+"/sub/b.txt", "b\n") }},
	"another branch": {guest: func(w *world) {
		git(w.T, w.guest, "checkout", "-q", "-b", "feature/x")
		w.edit()
	}},
	"a merge in progress": {guest: func(w *world) {
		g := w.guest
		git(w.T, g, "checkout", "-q", "-b", "other")
		write(w.T, g+"/a.txt", "theirs\n")
		git(w.T, g, "commit", "-q", "-a", "-m", "theirs")
		git(w.T, g, "checkout", "-q", "main")
		write(w.T, g+"/a.txt", "ours\n")
		git(w.T, g, "commit", "-q", "-a", "-m", "ours")
		if err := gitCommand(w.T, g, "merge", "-q", "other").Run(); err == nil {
			w.Fatal("no conflict")
		}
	}},
	"a rebase in progress": {guest: func(w *world) {
		g := w.guest
		git(w.T, g, "checkout", "-q", "-b", "other")
		write(w.T, g+"/a.txt", "theirs\n")
		git(w.T, g, "commit", "-q", "-a", "-m", "theirs")
		git(w.T, g, "checkout", "-q", "main")
		write(w.T, g+"/a.txt", "ours\n")
		git(w.T, g, "commit", "-q", "-a", "-m", "ours")
		if err := gitCommand(w.T, g, "rebase", "-q", "other").Run(); err == nil {
			w.Fatal("no conflict")
		}
	}},
	"a merge": {guest: func(w *world) {
		g := w.guest
		git(w.T, g, "checkout", "-q", "-b", "other")
		write(w.T, g+"/theirs", "theirs\n")
		git(w.T, g, "add", ".")
		git(w.T, g, "commit", "-q", "-m", "theirs")
		git(w.T, g, "checkout", "-q", "main")
		write(w.T, g+"/ours", "ours\n")
		git(w.T, g, "add", ".")
		git(w.T, g, "commit", "-q", "-m", "ours")
		git(w.T, g, "merge", "-q", "other")
	}},
	"a commit written anew": {guest: func(w *world) {
		write(w.T, w.guest+"/a.txt", "amended\n")
		git(w.T, w.guest, "commit", "-q", "-a", "--amend", "-m", "amended")
	}},
	"linked work tree": {guest: (*world).edit}, // see TestShapes
	"repositories in it": {guest: func(w *world) {
		for _, n := range []string{"nested", "bare of commits"} {
			must(w.T, os.Mkdir(w.guest+"/"+n, 0o755))
			git(w.T, w.guest+"/"+n, "init", "-q")
			write(w.T, w.guest+"/"+n+"/file", "x\n")
		}
		git(w.T, w.guest+"/nested", "add", ".")
		git(w.T, w.guest+"/nested", "commit", "-q", "-m", "x")
		write(w.T, w.guest+"/a.txt", "changed\n")
	}},
	"LFS pointers": {host: func(t *testing.T, dir string) {
		write(t, dir+"/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
		write(t, dir+"/x.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:"+strings.Repeat("ab", 32)+"\nsize 12345\n")
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-q", "-m", "pointer")
	}, guest: (*world).edit},
	"line ends": {host: func(t *testing.T, dir string) {
		write(t, dir+"/.gitattributes", "a.txt text eol=crlf\nnew.txt text eol=crlf\n*.sh text eol=lf\n")
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-q", "-m", "attributes")
		must(t, os.Remove(dir+"/a.txt"))
		git(t, dir, "checkout", "a.txt")
	}, guest: func(w *world) {
		write(w.T, w.guest+"/new.txt", "one\r\ntwo\r\n")
		write(w.T, w.guest+"/a.txt", "changed\r\n")
	}},
	"links and modes": {host: func(t *testing.T, dir string) {
		must(t, os.Symlink("a.txt", dir+"/to-file"))
		must(t, os.Symlink("sub", dir+"/to-dir"))
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-q", "-m", "links")
	}, guest: func(w *world) {
		g := w.guest
		must(w.T, os.Remove(g+"/to-file"))
		write(w.T, g+"/to-file", "a file now\n")
		must(w.T, os.Remove(g+"/a.txt"))
		must(w.T, os.Symlink("/etc/passwd", g+"/a.txt"))
		must(w.T, os.Chmod(g+"/run.sh", 0o755))
		must(w.T, os.Symlink("nowhere", g+"/dangling"))
	}},
	"a file becomes a directory": {guest: func(w *world) {
		g := w.guest
		must(w.T, os.Remove(g+"/a.txt"))
		write(w.T, g+"/a.txt/in", "x\n")
		must(w.T, os.RemoveAll(g+"/sub"))
		write(w.T, g+"/sub", "a file\n")
	}},
	"sparse": {host: func(t *testing.T, dir string) {
		write(t, dir+"/far/c.txt", "c\n")
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-q", "-m", "far")
		git(t, dir, "sparse-checkout", "set", "sub")
	}, guest: func(w *world) { write(w.T, w.guest+"/sub/new", "x\n"); write(w.T, w.guest+"/a.txt", "2\n") }},
	"nothing left": {guest: func(w *world) {
		must(w.T, os.RemoveAll(w.guest+"/sub"))
		must(w.T, os.Remove(w.guest+"/a.txt"))
		must(w.T, os.Remove(w.guest+"/run.sh"))
		must(w.T, os.Remove(w.guest+"/.gitignore"))
	}},
	"to be added later": {guest: func(w *world) { write(w.T, w.guest+"/later", "x\n"); git(w.T, w.guest, "add", "-N", "later") }},
	"many files": {host: func(t *testing.T, dir string) {
		for i := range 3000 {
			write(t, fmt.Sprintf("%s/many/%d/%d", dir, i%50, i), fmt.Sprint(i))
		}
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-q", "-m", "many")
	}, guest: (*world).edit},
	"reftable": {flags: []string{"--ref-format=reftable"}, guest: (*world).edit},
}

// Whatever a repository looks like, its work comes back whole, as a patch and as a branch.
func TestShapes(t *testing.T) {
	for name, s := range shapes {
		t.Run(name, func(t *testing.T) {
			if len(s.flags) > 0 {
				if err := gitCommand(t, t.TempDir(), append([]string{"init", "-q"}, s.flags...)...).Run(); err != nil {
					t.Skip("this git doesn't know ", s.flags)
				}
			}
			w := newWorld(t, func(dir string) {
				if !strings.HasPrefix(name, "empty") {
					first(t)(dir)
				}
				if s.host != nil {
					s.host(t, dir)
				}
			}, s.flags...)
			if name == "linked work tree" {
				linked := filepath.Join(filepath.Dir(w.host), "x", "proj")
				git(t, w.host, "worktree", "add", "-q", "-b", "side", linked)
				w.host = linked
				w.send()
			}
			s.guest(w)
			w.returns()
		})
	}
}

// Files of submodules go into the guest and stay there: the repository's own work comes back.
func TestSubmodule(t *testing.T) {
	var sub string
	w := newWorld(t, func(dir string) {
		first(t)(dir)
		sub = filepath.Join(filepath.Dir(dir), "lib")
		must(t, os.Mkdir(sub, 0o755))
		git(t, sub, "init", "-q")
		first(t)(sub)
		git(t, dir, "-c", "protocol.file.allow=always", "submodule", "add", "-q", sub, "lib")
		git(t, dir, "commit", "-q", "-m", "lib")
	})
	write(t, w.guest+"/a.txt", "changed\n")
	write(t, w.guest+"/lib/a.txt", "changed in the submodule\n")
	work := w.take()
	changes, err := work.Changes(t.Context())
	must(t, err)
	if len(changes) != 1 || string(changes[0].Path) != "a.txt" {
		t.Errorf("the changes are %+v", changes)
	}
	must(t, work.Keep(t.Context(), "vm1", "fix"))
	git(t, w.host, "fsck", "--strict")
}

// A commit that is gone from the host is said; nothing is taken.
func TestBaseGone(t *testing.T) {
	w := newWorld(t, first(t))
	w.record.Base = strings.Repeat("12", 20)
	if _, err := take.Take(t.Context(), w.record, w.source, take.Usual); banger.CodeOf(err) != banger.CodeConflict || !strings.Contains(err.Error(), "no longer has the commit") {
		t.Errorf("it says %v", err)
	}
	w.record.Format = "sha256"
	if _, err := take.Take(t.Context(), w.record, w.source, take.Usual); banger.CodeOf(err) != banger.CodeConflict || !strings.Contains(err.Error(), "has objects of") {
		t.Errorf("it says %v", err)
	}
}

// A partial clone that has what its newest commit names sends and takes.
func TestPartialClone(t *testing.T) {
	w := newWorld(t, func(dir string) {
		first(t)(dir)
		write(t, dir+"/a.txt", "second\n")
		git(t, dir, "commit", "-q", "-a", "-m", "second")
		git(t, dir, "config", "uploadpack.allowFilter", "true")
	})
	clone := filepath.Join(t.TempDir(), "proj")
	git(t, w.host, "-c", "protocol.file.allow=always", "clone", "-q", "--filter=blob:none", "file://"+w.host, clone)
	w.host = clone
	w.send()
	w.edit()
	work := w.take()
	must(t, work.Keep(t.Context(), "vm1", "fix"))
	var patch bytes.Buffer
	must(t, work.Patch(t.Context(), &patch))
	at := filepath.Join(t.TempDir(), "at")
	git(t, w.host, "worktree", "add", "-q", "--detach", at, "fix")
	w.same("the branch", at)
}

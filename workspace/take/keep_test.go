package take_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/workspace/send"
)

// A branch before its first commit is in use where it is checked out, in whichever work tree.
func TestUnbornBranch(t *testing.T) {
	w := newWorld(t, first(t))
	w.edit()
	work := w.take()
	linked := w.host + "-linked"
	git(t, w.host, "worktree", "add", "-q", "--detach", linked)
	for _, dir := range []string{w.host, linked} {
		git(t, dir, "symbolic-ref", "HEAD", "refs/heads/unborn")
		if err := work.Keep(t.Context(), "vm1", "unborn"); banger.CodeOf(err) != banger.CodeConflict || !strings.Contains(err.Error(), "is checked out in "+dir) {
			t.Errorf("of %s: %v", dir, err)
		}
		git(t, dir, "checkout", "-q", "--detach", "main")
	}
	must(t, work.Keep(t.Context(), "vm1", "unborn"))
}

// A file that changes within the second in which the index was written, and keeps its
// length, has changed: git tells by the index's own time, which a copy of it must have.
func TestChangedAtOnce(t *testing.T) {
	second := time.Now().Add(-time.Minute).Truncate(time.Second)
	edit := func(dir string) {
		git(t, dir, "config", "core.trustctime", "false") // as if that second were this one
		file := dir + "/a.txt"
		for i, text := range []string{"uno\n", "due\n"} {
			write(t, file, text)
			must(t, os.Chtimes(file, second, second))
			if i == 0 {
				git(t, dir, "commit", "-q", "-a", "-m", "one")
				must(t, os.Chtimes(dir+"/.git/index", second, second))
			}
		}
	}
	w := newWorld(t, first(t))
	edit(w.guest)
	work := w.take()
	var text bytes.Buffer
	if must(t, work.Patch(t.Context(), &text)); !strings.Contains(text.String(), "+due") {
		t.Errorf("of the guest's:\n%s", text.String())
	}

	edit(w.host)
	r, err := send.Open(t.Context(), w.host)
	must(t, err)
	tree, err := r.Snapshot(t.Context())
	must(t, err)
	if want := git(t, w.host, "rev-parse", "HEAD^{tree}"); tree == want {
		t.Errorf("of the host's: its files are %s, as if nothing had changed", tree)
	}
}

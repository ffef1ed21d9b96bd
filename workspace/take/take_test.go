package take_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/guest/agent/tool"
	"banger/workspace/send"
	"banger/workspace/take"
)

func TestMain(m *testing.M) {
	if os.Args[0] == tool.Name { // a guest's
		os.Exit(tool.Main(os.Args))
	}
	if record := os.Getenv("LAND_RECORD"); record != "" {
		if err := landIn(context.Background(), record); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// git runs git as a user of the test would.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := gitCommand(t, dir, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func gitCommand(t *testing.T, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_ALLOW_PROTOCOL=file")
	return cmd
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a repository of a host and its copy in a guest.
type world struct {
	*testing.T
	host, guest string
	record      banger.Repository
	options     send.Options
}

// newWorld makes a repository and sends it.
func newWorld(t *testing.T, make func(dir string), flags ...string) *world {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	w := &world{T: t, host: filepath.Join(dir, "proj")}
	must(t, os.Mkdir(w.host, 0o755))
	git(t, w.host, append([]string{"init", "-q", "-b", "main"}, flags...)...)
	make(w.host)
	w.send()
	return w
}

// send copies the repository into the guest anew.
func (w *world) send() {
	w.Helper()
	r, err := send.Open(w.Context(), w.host)
	must(w.T, err)
	r.Options = w.options
	var b bytes.Buffer
	must(w.T, r.Tar(w.Context(), &b))
	to := w.TempDir()
	cmd := w.tool("untar", to)
	cmd.Stdin = &b
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("untar: %v: %s", err, out)
	}
	w.guest = filepath.Join(to, "proj")
	w.record, err = r.Record(w.Context(), w.guest)
	must(w.T, err)
}

// tool runs a tool of the agent as the agent would.
func (w *world) tool(args ...string) *exec.Cmd {
	self, err := os.Executable()
	must(w.T, err)
	cmd := exec.CommandContext(w.Context(), self)
	cmd.Args = append([]string{tool.Name}, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.TempDir()}
	return cmd
}

// source is the guest's end.
func (w *world) source(ctx context.Context, base string, to io.Writer) error {
	cmd := w.tool("work", w.guest, base)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = to, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, said.String())
	}
	return nil
}

// take takes the guest's work.
func (w *world) take() *take.Work {
	w.Helper()
	work, err := take.Take(w.Context(), w.record, w.source, take.Usual)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(work.Close)
	return work
}

// files says of every file below a directory what git would store of it: content and mode.
// What git ignores and .git aren't files.
func (w *world) files(dir string) map[string]string {
	w.Helper()
	all := map[string]string{}
	list := git(w.T, dir, "ls-files", "-c", "-o", "--exclude-standard", "-z")
	for name := range strings.SplitSeq(list, "\x00") {
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		if name == "" || err != nil || info.IsDir() {
			continue
		}
		text, _ := os.ReadFile(path)
		if info.Mode()&os.ModeSymlink != 0 {
			target, _ := os.Readlink(path)
			text = []byte("-> " + target)
		}
		all[name] = fmt.Sprintf("%v %s", info.Mode().Perm()&0o100 != 0, text)
	}
	return all
}

func (w *world) same(what, dir string) {
	w.Helper()
	got, want := w.files(dir), w.files(w.guest)
	for name := range want {
		if got[name] != want[name] {
			w.Errorf("%s: %q is %.100q, want %.100q", what, name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			w.Errorf("%s: %q shouldn't be there", what, name)
		}
	}
}

// returns takes the work out in both ways and compares with the guest's files.
func (w *world) returns() {
	w.Helper()
	before, index := w.files(w.host), git(w.T, w.host, "ls-files", "-s")
	guestBefore := git(w.T, w.guest, "ls-files", "-s", "-v") + git(w.T, w.guest, "status", "--porcelain")
	work := w.take()
	var patch bytes.Buffer
	must(w.T, work.Patch(w.Context(), &patch))
	must(w.T, work.Keep(w.Context(), "vm1", "fix"))

	if guestBefore != git(w.T, w.guest, "ls-files", "-s", "-v")+git(w.T, w.guest, "status", "--porcelain") {
		w.Error("the guest's index changed")
	}
	if left, _ := filepath.Glob(filepath.Join(w.guest, ".git/banger-*")); len(left) > 0 {
		w.Errorf("the guest has %q now", left)
	}
	if index != git(w.T, w.host, "ls-files", "-s") || !equal(before, w.files(w.host)) {
		w.Error("the host's checkout changed")
	}
	git(w.T, w.host, "fsck", "--strict")

	// The patch, on the base.
	if w.record.Base != "" {
		at := filepath.Join(w.TempDir(), "at")
		git(w.T, w.host, "worktree", "add", "-q", "--detach", at, w.record.Base)
		if patch.Len() > 0 {
			cmd := gitCommand(w.T, at, "apply", "--index", "--whitespace=nowarn", "-")
			cmd.Stdin = bytes.NewReader(patch.Bytes())
			if out, err := cmd.CombinedOutput(); err != nil {
				w.Fatalf("git apply: %v: %s\n%.2000s", err, out, patch.String())
			}
		}
		w.same("the patch", at)
	}
	if work.Tip != "" {
		at := filepath.Join(w.TempDir(), "at")
		git(w.T, w.host, "worktree", "add", "-q", "--detach", at, "fix")
		w.same("the branch", at)
	}
	if got := git(w.T, w.host, "for-each-ref", "--format=%(refname)", "refs/banger"); work.Tip != "" && !strings.Contains(got, "refs/banger/vm1/work") {
		w.Errorf("the refs are %q", got)
	}
	if left, _ := filepath.Glob(os.Getenv("XDG_CACHE_HOME") + "/banger/packs/*"); len(left) > 1 {
		w.Errorf("scratch directories stay: %q", left)
	}
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// first makes a repository with a commit of some files.
func first(t *testing.T) func(dir string) {
	return func(dir string) {
		write(t, dir+"/a.txt", "one\ntwo\nthree\n")
		write(t, dir+"/sub/b.txt", strings.Repeat("line\n", 50))
		write(t, dir+"/run.sh", "#!/bin/sh\n")
		write(t, dir+"/.gitignore", "ignored\n")
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-q", "-m", "first")
	}
}

// edit changes a guest's files in every way.
func (w *world) edit() {
	w.Helper()
	g := w.guest
	write(w.T, g+"/a.txt", "one\n2\nthree\n")
	git(w.T, g, "commit", "-q", "-a", "-m", "a commit in the guest")
	must(w.T, os.Rename(g+"/sub/b.txt", g+"/sub/renamed.txt"))
	git(w.T, g, "add", "-A")
	git(w.T, g, "commit", "-q", "-m", "a rename")
	write(w.T, g+"/staged.txt", "staged\n")
	git(w.T, g, "add", "staged.txt")
	write(w.T, g+"/staged.txt", "and changed again\n")
	must(w.T, os.Chmod(g+"/run.sh", 0o755))
	write(w.T, g+"/untracked", "new\n")
	write(w.T, g+"/ignored", "not for the host\n")
	write(w.T, g+"/bin\x00"[:4]+"ary", "\x00\x01\x02\xff")
	write(w.T, g+"/odd \n'\"\\\xff\t.txt", "odd\n")
	must(w.T, os.Symlink("a.txt", g+"/link"))
	write(w.T, g+"/empty", "")
}

func TestReturns(t *testing.T) {
	for _, format := range []string{"sha1", "sha256"} {
		t.Run(format, func(t *testing.T) {
			w := newWorld(t, first(t), "--object-format="+format)
			w.edit()
			w.returns()
			work := w.take()
			commits, err := work.Commits(t.Context())
			must(t, err)
			var subjects []string
			for _, c := range commits {
				subjects = append(subjects, c.Subject)
			}
			if want := []string{"Work that was not committed yet", "a rename", "a commit in the guest"}; !slices.Equal(subjects, want) || !commits[0].Loose || commits[1].Loose {
				t.Errorf("the commits are %+v", commits)
			}
			changes, err := work.Changes(t.Context())
			must(t, err)
			seen := map[string]string{}
			for _, c := range changes {
				seen[string(c.Path)] = c.Status
			}
			if seen["a.txt"] != "modified" || seen["sub/renamed.txt"] != "renamed" || seen["untracked"] != "added" || seen["ignored"] != "" || len(seen) != 9 {
				t.Errorf("the changes are %q", seen)
			}
		})
	}
}

func TestNothing(t *testing.T) {
	w := newWorld(t, first(t))
	w.returns()
	work := w.take()
	if work.Tip != w.record.Base {
		t.Errorf("the tip is %s", work.Tip)
	}
	if c, err := work.Commits(t.Context()); err != nil || len(c) != 0 {
		t.Errorf("%v, %v", c, err)
	}
}

// Work on a branch that isn't checked out, or in a stash, doesn't come along; it is told.
func TestOthersAreTold(t *testing.T) {
	w := newWorld(t, first(t))
	if others := w.take().Others; len(others) != 0 {
		t.Errorf("an untouched copy has %q", others)
	}
	git(t, w.guest, "switch", "-q", "-c", "fix")
	git(t, w.guest, "commit", "-q", "--allow-empty", "-m", "on fix")
	git(t, w.guest, "switch", "-q", "main")
	write(t, filepath.Join(w.guest, "a.txt"), "stashed\n")
	git(t, w.guest, "stash", "-q")
	if others := w.take().Others; !slices.Equal(others, []string{"refs/heads/fix", "refs/stash"}) {
		t.Errorf("the others are %q", others)
	}
}

func TestWithoutGit(t *testing.T) {
	w := newWorld(t, func(dir string) {
		first(t)(dir)
		write(t, dir+"/.gitignore", "ignored\ntracked-too\n")
		write(t, dir+"/tracked-too", "x\n")
		git(t, dir, "add", "-f", ".")
		git(t, dir, "commit", "-q", "-m", "second")
	})
	write(t, w.guest+"/a.txt", "changed\n")
	write(t, w.guest+"/new/file", "new\n")
	write(t, w.guest+"/ignored", "x\n")
	write(t, w.guest+"/tracked-too", "y\n")
	write(t, w.guest+"/nested/.git/config", "[core]\n\tfsmonitor = touch /tmp/banger-witness\n")
	must(t, os.Symlink("/etc/passwd", w.guest+"/passwd"))
	must(t, os.Remove(w.guest+"/run.sh"))
	path := os.Getenv("PATH")
	work, err := take.Take(t.Context(), w.record, func(ctx context.Context, base string, to io.Writer) error {
		cmd := w.tool("work", w.guest, base)
		cmd.Env = []string{"PATH=/nonexistent"}
		cmd.Stdout = to
		return cmd.Run()
	}, take.Usual)
	must(t, err)
	defer work.Close()
	t.Setenv("PATH", path)
	if work.Git {
		t.Error("it says that there is git")
	}
	must(t, work.Keep(t.Context(), "vm1", "fix"))
	at := filepath.Join(t.TempDir(), "at")
	git(t, w.host, "worktree", "add", "-q", "--detach", at, "fix")
	must(t, os.RemoveAll(w.guest+"/nested")) // of which nothing comes along
	w.same("the branch", at)
}

func TestRefusesForce(t *testing.T) {
	w := newWorld(t, first(t))
	w.edit()
	work := w.take()
	git(t, w.host, "branch", "old")
	if err := work.Keep(t.Context(), "vm1", "main"); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("a branch that is checked out: %v", err)
	}
	if err := work.Keep(t.Context(), "vm1", "a..b"); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("a name that is none: %v", err)
	}
	must(t, work.Keep(t.Context(), "vm1", "old")) // forward
	git(t, w.host, "checkout", "-q", "old")
	git(t, w.host, "commit", "-q", "--allow-empty", "-m", "more")
	git(t, w.host, "checkout", "-q", "main")
	if err := work.Keep(t.Context(), "vm1", "old"); banger.CodeOf(err) != banger.CodeConflict {
		t.Errorf("a branch with more: %v", err)
	}
}

func TestSourceFails(t *testing.T) {
	w := newWorld(t, first(t))
	no := errors.New("no")
	if _, err := take.Take(t.Context(), w.record, func(context.Context, string, io.Writer) error { return no }, take.Usual); !errors.Is(err, no) {
		t.Errorf("it says %v", err)
	}
}

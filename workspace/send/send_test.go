package send_test

import (
	"archive/tar"
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
	"banger/workspace/send"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// git runs git as a user of the test would.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_ALLOW_PROTOCOL=file")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return string(out)
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

// temp is a directory whose path has no symbolic link in it.
func temp(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is missing")
	}
	t.Setenv("HOME", t.TempDir()) // a user without a configuration of his own
	t.Setenv("XDG_CONFIG_HOME", "")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// newRepo has two commits of a.txt, run.sh, sub/b.txt.
func newRepo(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(temp(t), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "init", "-q", "-b", "trunk/x")
	write(t, dir+"/a.txt", "old\n")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "first")
	write(t, dir+"/a.txt", "one\n")
	write(t, dir+"/sub/b.txt", "two\n")
	write(t, dir+"/run.sh", "#!/bin/sh\n")
	if err := os.Chmod(dir+"/run.sh", 0o755); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "second")
	return dir
}

func open(t *testing.T, path string) *send.Repo {
	t.Helper()
	r, err := send.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// unpack extracts what Tar writes and returns the directory and the names
// outside .git.
func unpack(t *testing.T, r *send.Repo) (dir string, names []string) {
	t.Helper()
	var b bytes.Buffer
	if err := r.Tar(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	cmd := exec.CommandContext(t.Context(), "tar", "-x", "--no-same-owner", "-C", dir)
	cmd.Stdin = bytes.NewReader(b.Bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	seen := map[string]bool{}
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if err == io.EOF {
			slices.Sort(names)
			return filepath.Join(dir, r.Name), names
		}
		if err != nil {
			t.Fatal(err)
		}
		if seen[h.Name] {
			t.Errorf("%q is there twice", h.Name)
		}
		seen[h.Name] = true
		if parent := filepath.Dir(strings.TrimSuffix(h.Name, "/")); parent != "." && !seen[parent+"/"] {
			t.Errorf("%q comes before its directory", h.Name)
		}
		name, ok := strings.CutPrefix(h.Name, r.Name+"/")
		if !ok {
			t.Errorf("%q is outside %s", h.Name, r.Name)
		}
		if name != "" && !strings.HasPrefix(name, ".git/") {
			names = append(names, name)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	dir := newRepo(t, "proj")
	write(t, dir+"/a.txt", "changed\n")
	write(t, dir+"/staged.txt", "staged\n")
	odd := "odd \n'\"\\\xff\t.txt"
	write(t, dir+"/"+odd, "odd\n")
	if err := os.Symlink("/etc/passwd", dir+"/out"); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "add", "staged.txt", odd, "out")
	write(t, dir+"/staged.txt", "staged, then changed\n")
	write(t, dir+"/new.txt", "untracked\n")
	write(t, dir+"/build/x.o", "ignored\n")
	write(t, dir+"/.gitignore", "*.o\n")
	git(t, dir, "add", ".gitignore")
	if err := os.Remove(dir + "/sub/b.txt"); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "remote", "add", "origin", "https://me:secret@example.org/x.git?token=secret")

	r := open(t, dir+"/build")
	if r.Name != "proj" || r.Top != dir || r.Dir != "build" {
		t.Errorf("opened %+v", r)
	}
	files, err := r.Files(t.Context())
	if err != nil || files.Untracked != 1 {
		t.Errorf("%d untracked files, %v", files.Untracked, err)
	}
	got, names := unpack(t, r)
	want := []string{".gitignore", "a.txt", odd, "out", "run.sh", "staged.txt"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	git(t, dir, "clean", "-fdxq", "new.txt", "build")
	for _, args := range [][]string{{"status", "--porcelain", "-b"}, {"diff"}, {"diff", "--cached"}, {"log", "-1", "--format=%H %s"}, {"branch"}} {
		if diff := cmp.Diff(git(t, dir, args...), git(t, got, args...)); diff != "" {
			t.Errorf("git %s (-host +guest):\n%s", args, diff)
		}
	}
	git(t, got, "fsck", "--full", "--strict")
	if url := git(t, got, "remote", "get-url", "origin"); url != "https://example.org/x.git\n" {
		t.Errorf("origin is %q", url)
	}
	if info, err := os.Stat(got + "/run.sh"); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("run.sh: %v, %v", info, err)
	}
	before, _ := os.Stat(dir + "/run.sh")
	if after, err := os.Stat(got + "/run.sh"); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("time of run.sh: %v, %v", after.ModTime(), before.ModTime())
	}
	git(t, got, "commit", "-q", "-a", "-m", "third")
}

func TestUntracked(t *testing.T) {
	dir := newRepo(t, "proj")
	write(t, dir+"/new/x.txt", "untracked\n")
	write(t, dir+"/secret.env", "ignored\n")
	write(t, dir+"/.gitignore", "*.env\n")
	write(t, dir+"/.git/info/exclude", "/.gitignore\n")
	git(t, dir, "init", "-q", "nested")
	write(t, dir+"/nested/file", "of another repository\n")
	r := open(t, dir)
	r.IncludeUntracked = true
	_, names := unpack(t, r)
	if diff := cmp.Diff([]string{"a.txt", "new/", "new/x.txt", "run.sh", "sub/", "sub/b.txt"}, names); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestKinds(t *testing.T) {
	t.Run("unborn", func(t *testing.T) {
		dir := filepath.Join(temp(t), "new")
		git(t, filepath.Dir(dir), "init", "-q", "-b", "main", dir)
		got, _ := unpack(t, open(t, dir))
		if diff := cmp.Diff(git(t, dir, "status"), git(t, got, "status")); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("staged only", func(t *testing.T) {
		dir := filepath.Join(temp(t), "new")
		git(t, filepath.Dir(dir), "init", "-q", "-b", "main", dir)
		write(t, dir+"/x", "x")
		git(t, dir, "add", "x")
		write(t, dir+"/later", "x")
		git(t, dir, "add", "-N", "later")
		got, names := unpack(t, open(t, dir))
		if diff := cmp.Diff([]string{"later", "x"}, names); diff != "" {
			t.Error(diff)
		}
		git(t, got, "status")
		git(t, got, "commit", "-q", "-m", "x")
	})
	t.Run("detached", func(t *testing.T) {
		dir := newRepo(t, "d")
		git(t, dir, "checkout", "-q", "--detach", "HEAD~1")
		got, _ := unpack(t, open(t, dir))
		if a, b := git(t, dir, "rev-parse", "HEAD"), git(t, got, "rev-parse", "HEAD"); a != b {
			t.Errorf("HEAD %s, %s", a, b)
		}
		git(t, got, "status")
	})
	t.Run("sha256", func(t *testing.T) {
		dir := filepath.Join(temp(t), "s")
		git(t, filepath.Dir(dir), "init", "-q", "--object-format=sha256", dir)
		write(t, dir+"/x", "x")
		git(t, dir, "add", "x")
		git(t, dir, "commit", "-q", "-m", "x")
		got, _ := unpack(t, open(t, dir))
		if s := git(t, got, "status", "--porcelain"); s != "" {
			t.Error(s)
		}
	})
	t.Run("linked work tree", func(t *testing.T) {
		dir := newRepo(t, "main")
		linked := filepath.Join(filepath.Dir(dir), "linked")
		git(t, dir, "worktree", "add", "-q", "-b", "topic", linked)
		got, _ := unpack(t, open(t, linked))
		if s := git(t, got, "status", "--porcelain", "-b"); s != "## topic\n" {
			t.Error(s)
		}
	})
	t.Run("submodule", func(t *testing.T) {
		inner := newRepo(t, "inner")
		dir := newRepo(t, "outer")
		git(t, dir, "-c", "protocol.file.allow=always", "submodule", "add", "-q", inner, "deps/inner")
		git(t, dir, "commit", "-q", "-m", "submodule")
		git(t, dir, "-c", "protocol.file.allow=always", "clone", "-q", dir, dir+"2")
		_, names := unpack(t, open(t, dir))
		if !slices.Contains(names, "deps/inner/sub/b.txt") {
			t.Errorf("no file of the submodule in %q", names)
		}
		r := open(t, dir+"2")
		got, names := unpack(t, r)
		files, err := r.Files(t.Context())
		if err != nil || !slices.Contains(names, "deps/inner/") || !slices.Equal(files.Submodules, []string{"deps/inner"}) {
			t.Errorf("submodule that isn't checked out: %q, %v", names, err)
		}
		if s := git(t, got, "status", "--porcelain"); s != "" {
			t.Error(s)
		}
		if r := open(t, dir+"/deps/inner/sub"); r.Name != "inner" || r.Dir != "sub" {
			t.Errorf("opened in a submodule: %+v", r)
		}
	})
	t.Run("sparse", func(t *testing.T) {
		dir := newRepo(t, "s")
		git(t, dir, "sparse-checkout", "set", "--no-cone", "a.txt")
		got, names := unpack(t, open(t, dir))
		if s := git(t, got, "status", "--porcelain"); s != "" || !slices.Equal(names, []string{"a.txt"}) {
			t.Errorf("%q %s", names, s)
		}
	})
	t.Run("conflict", func(t *testing.T) {
		dir := newRepo(t, "c")
		git(t, dir, "checkout", "-q", "-b", "other", "HEAD~1")
		write(t, dir+"/a.txt", "other\n")
		git(t, dir, "commit", "-q", "-a", "-m", "other")
		_ = exec.CommandContext(t.Context(), "git", "-C", dir, "-c", "user.name=a", "-c", "user.email=a@b", "merge", "trunk/x").Run() // ends with a conflict
		got, _ := unpack(t, open(t, dir))
		if s := git(t, got, "status", "--porcelain"); !strings.Contains(s, "AA a.txt") && !strings.Contains(s, "UU a.txt") {
			t.Error(s)
		}
	})
}

func TestRefused(t *testing.T) {
	dir := temp(t)
	repo := newRepo(t, "r")
	git(t, repo, "clone", "-q", "--bare", repo, dir+"/bare.git")
	if err := os.MkdirAll(dir+"/broken/.git", 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		dir + "/none":        "there is no",
		dir:                  "not in a git repository",
		dir + "/bare.git":    "bare",
		repo + "/.git/hooks": "inside of a .git",
		repo + "/a.txt":      "not a directory",
		dir + "/broken":      "not a git repository",
	} {
		_, err := send.Open(t.Context(), path)
		if banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), text) {
			t.Errorf("Open(%s): %v, want %q", path, err, text)
		}
	}
	theirs := newRepo(t, "theirs")
	if os.Getuid() == 0 {
		if err := os.Chown(theirs, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(theirs+"/.git", 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := send.Open(t.Context(), theirs); os.Getuid() == 0 && (banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "belongs to another user")) {
		t.Error(err)
	}
	for head, text := range map[string]string{
		"ref: refs/tags/x":                         "not a branch",
		"1234567890123456789012345678901234567890": "names neither a branch nor a commit",
	} {
		odd := newRepo(t, "odd")
		if err := os.WriteFile(odd+"/.git/HEAD", []byte(head+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := send.Open(t.Context(), odd)
		if err == nil {
			err = r.Tar(t.Context(), io.Discard)
		}
		if banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), text) {
			t.Errorf("HEAD %q: %v, want %q", head, err, text)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := send.Open(ctx, repo); banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("with a context that ended: %v", err)
	}
}

// TestIdentity: who commits in the guest is who would here.
func TestIdentity(t *testing.T) {
	dir := newRepo(t, "r")
	config := func() string {
		got, _ := unpack(t, open(t, dir))
		text, err := os.ReadFile(got + "/.git/config")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if text := config(); strings.Contains(text, "user") {
		t.Errorf("an identity that nobody gave:\n%s", text)
	}
	const name = `Zoë "Quo\te" #1 ; O'Neil `
	git(t, dir, "config", "user.name", name)
	git(t, dir, "config", "user.email", "zoe@example.org")
	got, _ := unpack(t, open(t, dir))
	for key, want := range map[string]string{"user.name": name, "user.email": "zoe@example.org"} {
		if has := strings.TrimSuffix(git(t, got, "config", "--local", key), "\n"); has != want {
			t.Errorf("%s is %q in the guest, want %q", key, has, want)
		}
	}
	git(t, dir, "config", "user.name", "two\nlines = [core]")
	if text := config(); strings.Contains(text, "lines") {
		t.Errorf("lines of a value:\n%s", text)
	}
}

// TestRunsNothing gives a repository every way to name a program; none may run.
func TestRunsNothing(t *testing.T) {
	dir := newRepo(t, "evil")
	canary := filepath.Join(t.TempDir(), "ran")
	script := filepath.Join(t.TempDir(), "evil.sh")
	write(t, script, "#!/bin/sh\necho \"$0 $*\" >> "+canary+"\ncat\n")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "core.askPass", "core.gitProxy", "core.alternateRefsCommand",
		"diff.external", "diff.evil.textconv", "diff.evil.command", "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "merge.evil.driver",
		"gpg.program", "credential.helper", "uploadpack.packObjectsHook", "sequence.editor", "pager.ls-files", "pager.rev-list"} {
		git(t, dir, "config", key, script)
	}
	for _, name := range []string{"ls-files", "rev-parse", "pack-objects"} {
		git(t, dir, "config", "alias."+name, "!"+script)
	}
	for _, hook := range []string{"post-index-change", "fsmonitor-watchman", "pre-commit", "post-checkout", "reference-transaction"} {
		if err := os.Symlink(script, dir+"/.git/hooks/"+hook); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/.gitattributes", "* filter=evil diff=evil merge=evil\n")
	write(t, dir+"/a.txt", "changed\n")
	r := open(t, dir)
	r.IncludeUntracked = true
	got, names := unpack(t, r)
	if !slices.Contains(names, ".gitattributes") {
		t.Errorf("entries %q", names)
	}
	config, err := os.ReadFile(got + "/.git/config")
	if err != nil || bytes.Contains(config, []byte("evil")) {
		t.Errorf("configuration in the guest: %s, %v", config, err)
	}
	if _, err := os.Stat(got + "/.git/hooks"); !errors.Is(err, os.ErrNotExist) {
		t.Error("hooks went along")
	}
	brief := filepath.Join(t.TempDir(), "brief.sh") // git would wait for what it says
	write(t, brief, "#!/bin/sh\necho \"$0 $*\" >> "+canary+"\n")
	if err := os.Chmod(brief, 0o755); err != nil {
		t.Fatal(err)
	}
	loseObject(t, dir, brief)
	if err := open(t, dir).Tar(t.Context(), io.Discard); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("with an object missing: %v", err)
	}
	// Older gits don't know that they shall fetch nothing.
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	old := t.TempDir()
	write(t, old+"/git", "#!/bin/sh\nunset GIT_NO_LAZY_FETCH\nexec "+real+" \"$@\"\n")
	if err := os.Chmod(old+"/git", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", old+":"+os.Getenv("PATH"))
	if err := open(t, dir).Tar(t.Context(), io.Discard); banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("with an object missing, and an older git: %v", err)
	}
	if said, err := os.ReadFile(canary); err == nil {
		t.Errorf("programs of the repository ran:\n%s", said)
	}
}

// loseObject makes a repository a partial clone that lacks an object, which would be
// fetched by whatever its address says: by a script.
func loseObject(t *testing.T, dir, script string) {
	t.Helper()
	git(t, dir, "config", "remote.origin.url", "ext::"+script)
	git(t, dir, "config", "remote.origin.promisor", "true")
	git(t, dir, "config", "protocol.ext.allow", "always")
	git(t, dir, "config", "extensions.partialClone", "origin")
	blob := strings.TrimSpace(git(t, dir, "-c", "core.fsmonitor=false", "rev-parse", "HEAD:a.txt"))
	if err := os.Remove(filepath.Join(dir, ".git/objects", blob[:2], blob[2:])); err != nil {
		t.Fatal(err)
	}
}

// TestStaysInside: what a repository calls its own must be in its directory.
func TestStaysInside(t *testing.T) {
	secret := newRepo(t, "secret")
	write(t, secret+"/key.txt", "secret\n")
	git(t, secret, "add", ".")
	git(t, secret, "commit", "-q", "-m", "secret")
	link := func(to, name string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(name), os.Symlink(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	// A commit whose name is known is as good as one that is the newest.
	known := strings.TrimSpace(git(t, secret, "rev-parse", "HEAD"))
	at := func(dir string) { write(t, dir+"/.git/refs/heads/trunk/x", known+"\n") }
	for name, set := range map[string]func(dir string){
		"objects":    func(dir string) { link(secret+"/.git/objects", dir+"/.git/objects"); at(dir) },
		"alternates": func(dir string) { write(t, dir+"/.git/objects/info/alternates", secret+"/.git/objects\n"); at(dir) },
		"loose objects": func(dir string) {
			dirs, err := filepath.Glob(secret + "/.git/objects/??")
			if err != nil || len(dirs) == 0 {
				t.Fatal(dirs, err)
			}
			for _, d := range dirs {
				link(d, dir+"/.git/objects/"+filepath.Base(d))
			}
			at(dir)
		},
		"packs": func(dir string) {
			git(t, secret, "repack", "-q", "-a")
			packs, err := filepath.Glob(secret + "/.git/objects/pack/*")
			if err != nil || len(packs) == 0 {
				t.Fatal(packs, err)
			}
			for _, p := range packs {
				link(p, dir+"/.git/objects/pack/"+filepath.Base(p))
			}
			at(dir)
		},
		"reftable": func(dir string) { link(secret+"/.git/reftable", dir+"/.git/reftable") },
		"a table of refs": func(dir string) {
			write(t, secret+"/.git/reftable/0x1.ref", "secret")
			write(t, dir+"/.git/reftable/tables.list", "0x1.ref\n")
			link(secret+"/.git/reftable/0x1.ref", dir+"/.git/reftable/0x1.ref")
		},
		"file":     func(dir string) { _ = os.RemoveAll(dir + "/.git"); write(t, dir+"/.git", "gitdir: "+secret+"/.git\n") },
		"link":     func(dir string) { link(secret+"/.git", dir+"/.git") },
		"common":   func(dir string) { write(t, dir+"/.git/commondir", secret+"/.git\n") },
		"refs":     func(dir string) { link(secret+"/.git/refs", dir+"/.git/refs") },
		"HEAD":     func(dir string) { link(secret+"/.git/HEAD", dir+"/.git/HEAD") },
		"index":    func(dir string) { link(secret+"/.git/index", dir+"/.git/index") },
		"branch":   func(dir string) { link(secret+"/.git/refs/heads/trunk/x", dir+"/.git/refs/heads/trunk/x") },
		"branches": func(dir string) { link(secret+"/.git/refs/heads/trunk", dir+"/.git/refs/heads/trunk") },
		"common of a fake work tree": func(dir string) {
			_ = os.Rename(dir+"/.git", dir+"/fake")
			write(t, dir+"/.git", "gitdir: "+dir+"/fake\n")
			write(t, dir+"/fake/gitdir", dir+"/.git\n")
			write(t, dir+"/fake/commondir", secret+"/.git\n")
		},
	} {
		dir := newRepo(t, "evil")
		set(dir)
		r, err := send.Open(t.Context(), dir)
		if err == nil {
			err = r.Tar(t.Context(), io.Discard)
		}
		if banger.CodeOf(err) != banger.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Run("core.worktree", func(t *testing.T) {
		dir := newRepo(t, "evil")
		git(t, dir, "config", "core.worktree", filepath.Dir(secret))
		_, names := unpack(t, open(t, dir))
		if diff := cmp.Diff([]string{"a.txt", "run.sh", "sub/", "sub/b.txt"}, names); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a directory that became a link", func(t *testing.T) {
		dir := newRepo(t, "evil")
		write(t, filepath.Dir(dir)+"/b.txt", "outside\n")
		link("..", dir+"/sub")
		_, names := unpack(t, open(t, dir))
		if diff := cmp.Diff([]string{"a.txt", "run.sh"}, names); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("files that are none", func(t *testing.T) {
		dir := newRepo(t, "evil")
		_ = os.Remove(dir + "/a.txt")
		if err := unix.Mkfifo(dir+"/a.txt", 0o644); err != nil {
			t.Fatal(err)
		}
		link("/etc/passwd", dir+"/run.sh")
		got, names := unpack(t, open(t, dir))
		if diff := cmp.Diff([]string{"run.sh", "sub/", "sub/b.txt"}, names); diff != "" {
			t.Error(diff)
		}
		if to, err := os.Readlink(got + "/run.sh"); err != nil || to != "/etc/passwd" {
			t.Errorf("run.sh: %q, %v", to, err)
		}
	})
	t.Run("names in the index", func(t *testing.T) {
		for _, name := range []string{"../x.txt", ".git/hooks/post-checkout", "/etc/passwd", "a/.GIT/config"} {
			dir := newRepo(t, "evil")
			raw := git(t, dir, "rev-parse", "HEAD:a.txt")
			index := evilIndex(t, strings.TrimSpace(raw), name)
			if err := os.WriteFile(dir+"/.git/index", index, 0o644); err != nil {
				t.Fatal(err)
			}
			err := open(t, dir).Tar(t.Context(), io.Discard)
			if banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestLeavesNothing: the directory git writes to is gone afterwards, and that
// of a process killed in the middle goes with the next use.
func TestLeavesNothing(t *testing.T) {
	dir := newRepo(t, "r")
	t.Setenv("TMPDIR", t.TempDir()+"/full") // packs may be larger than any /tmp
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	tmp := cache + "/banger/packs"
	write(t, tmp+"/banger-git-dead/pack-1.pack", "x")
	write(t, tmp+"/other/file", "x")
	for range 2 {
		if err := open(t, dir).Tar(t.Context(), io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(t, dir).Tar(t.Context(), failing{}); err == nil {
		t.Error("a writer that fails went unnoticed")
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/test/vmtest"
)

// A repository goes into a VM that has git, and again by what differs; the VM's commits and
// changes come back as a patch, as a branch and into the checkout.
func TestWorkspace(t *testing.T) {
	h := vmtest.Shared
	name := h.NewVM(t)
	repo := filepath.Join(t.TempDir(), "proj")
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", repo, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	in := func(script string) string {
		t.Helper()
		return strings.TrimSpace(h.OK(t, "exec", name, "--", "sh", "-ec", "cd /root/proj; "+script))
	}
	for file, text := range map[string]string{"a.txt": "one\n", "sub/b.txt": "b\n", "gone.txt": "x\n", ".gitignore": "*.o\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(repo, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		vmtest.Write(t, filepath.Join(repo, file), text)
	}
	git("init", "-q", "-b", "main")
	git("config", "user.name", "t") // goes along
	git("config", "user.email", "t@example.org")
	git("add", "-A")
	git("commit", "-qm", "first")
	h.OK(t, "workspace", "prepare", name, repo)
	inode := in("touch a.o; stat -c %i sub/b.txt")

	// Again: a commit, a change, a deletion; what didn't change isn't written anew.
	vmtest.Write(t, repo+"/a.txt", "two\n")
	git("commit", "-qam", "second")
	vmtest.Write(t, repo+"/new.txt", "staged\n")
	git("add", "new.txt")
	if err := os.Remove(repo + "/gone.txt"); err != nil {
		t.Fatal(err)
	}
	h.OK(t, "workspace", "prepare", name, repo)
	if got, want := in("git status --porcelain; git log --format=%s; cat a.txt; ls a.o; stat -c %i sub/b.txt; git fsck --strict"), "D gone.txt\nA  new.txt\nsecond\nfirst\ntwo\na.o\n"+inode; got != want {
		t.Errorf("the copy is\n%s\nwant\n%s", got, want)
	}
	git("add", "-A")
	git("commit", "-qm", "third")
	h.OK(t, "exec", "--sync", name, "--", "true")

	// Work in it isn't replaced.
	in("echo three >a.txt; git commit -qam theirs; printf '\\0bin' >bin; chmod +x bin; rm sub/b.txt")
	if r := h.Run(nil, "workspace", "prepare", name, repo); r.Status != 4 || !strings.Contains(string(r.Stderr), "has work in") {
		t.Errorf("status %d: %s", r.Status, r.Stderr)
	}
	patch := filepath.Join(t.TempDir(), "patch")
	h.OK(t, "workspace", "export", "-q", "-o", patch, name)
	git("apply", "--index", patch)
	patched := git("write-tree")
	git("reset", "-q", "--hard")
	h.OK(t, "workspace", "export", "-q", name, "--branch", "fix")
	if got := git("rev-parse", "fix^{tree}"); got != patched {
		t.Errorf("the branch has the tree %s, the patch makes %s", got, patched)
	}
	if got, want := git("log", "--format=%s", "main..fix"), "Work that was not committed yet\ntheirs"; got != want {
		t.Errorf("the branch has %q, want %q", got, want)
	}
	h.OK(t, "workspace", "land", "--yes", name)
	if got := git("rev-parse", "HEAD^{tree}"); got != patched || git("status", "--porcelain") != "" {
		t.Errorf("the checkout is at %s: %s", got, git("status", "--porcelain"))
	}
	git("fsck", "--strict")

	// What was taken may be replaced; a VM that was killed may have more.
	h.OK(t, "workspace", "prepare", name, repo)
	if got := in("git status --porcelain; git rev-parse HEAD"); got != git("rev-parse", "HEAD") {
		t.Errorf("after landing the copy is %q", got)
	}
	h.OK(t, "vm", "stop", "--force", name)
	if r := h.Run(nil, "vm", "delete", name); r.Status != 4 || !strings.Contains(string(r.Stderr), "nobody knows what") {
		t.Errorf("status %d: %s", r.Status, r.Stderr)
	}
}

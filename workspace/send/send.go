// Package workspace reads a git repository on the host and writes it as a tar
// for a guest: the tracked files as they are in the work tree, and a .git of
// one commit, so that status, diff and log work on the other side.
//
// A repository is not trusted: somebody else may have written its
// configuration, index and objects. So git is only asked questions that run no
// program a repository could name (no status, diff, checkout or fetch: those
// run filters, textconv, hooks, ssh), files are opened beneath the top of the
// work tree and never through a symbolic link, and nothing of the host's
// configuration travels.
//
// It owns what goes in. It refuses to know how a tar gets into a guest, and
// what a guest does with it.
package workspace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"banger"
)

// Repo is a repository with a work tree. IncludeUntracked may be set until
// Files or Tar is called; after that a Repo is read-only.
type Repo struct {
	Name string // base name of the top directory
	Top  string // absolute path of the top of the work tree, links resolved
	Dir  string // where in it the path given to Open is: "." or "cmd/x"

	IncludeUntracked bool // take files git doesn't know, but not those it ignores

	gitDir    string // where the repository's own HEAD and index are
	commonDir string // where its branches and objects are; another one in a linked work tree
	format    string // of object names: "sha1" or "sha256"
	files     *Files // made by the first scan
}

// Open finds the repository a path lies in. No such path, no repository, or
// one without a work tree is CodeInvalid with a hint; CodeUnavailable says
// that git is missing.
func Open(ctx context.Context, path string) (*Repo, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, os.ErrNotExist) {
		return nil, banger.Errorf(banger.CodeInvalid, "there is no %s", path).
			WithHint("a command for the VM comes after --")
	}
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "open %s: %w", path, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "open %s: %w", path, err)
	}
	if !info.IsDir() {
		return nil, banger.Errorf(banger.CodeInvalid, "%s is not a directory", path).
			WithHint("name the repository or a directory in it")
	}
	top, err := findTop(dir)
	if err != nil {
		return nil, err
	}
	below, err := filepath.Rel(top, dir)
	if err != nil {
		return nil, err
	}
	r := &Repo{Name: filepath.Base(top), Top: top, Dir: below}
	if top == "/" {
		r.Name = "repo"
	}
	return r, r.check(ctx)
}

// findTop goes up to the directory that holds .git. Git is not asked: a
// repository's own core.worktree could answer with any directory of the host.
func findTop(dir string) (string, error) {
	for at := dir; ; at = filepath.Dir(at) {
		if exists(filepath.Join(at, ".git")) {
			return at, nil
		}
		if exists(filepath.Join(at, "HEAD")) && exists(filepath.Join(at, "objects")) && exists(filepath.Join(at, "refs")) {
			return "", banger.Errorf(banger.CodeInvalid, "%s is a bare repository or the inside of a .git: it has no files", at).
				WithHint("name a directory with files, or clone it: git clone %s", at)
		}
		if at == filepath.Dir(at) {
			return "", banger.Errorf(banger.CodeInvalid, "%s is not in a git repository", dir).
				WithHint("git init %s && git -C %[1]s add . makes it one", dir)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// check makes sure that git agrees to read the repository.
func (r *Repo) check(ctx context.Context) error {
	out, err := r.git(ctx, nil, "rev-parse", "--is-inside-work-tree", "--show-object-format")
	switch {
	case err == nil:
	case banger.CodeOf(err) != banger.CodeInternal:
		return err
	case strings.Contains(err.Error(), "dubious ownership"):
		return banger.Errorf(banger.CodeInvalid, "%s belongs to another user, git refuses to read it", r.Top).
			WithHint("if you trust it: git config --global --add safe.directory %s", r.Top)
	default:
		return banger.Errorf(banger.CodeInvalid, "%s: %w", r.Top, err)
	}
	f := strings.Fields(string(out))
	if len(f) != 2 || f[0] != "true" {
		return banger.Errorf(banger.CodeInvalid, "%s is not the top of a work tree", r.Top)
	}
	r.format = f[1]
	return r.checkGitDir(ctx)
}

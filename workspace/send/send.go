// Package send writes a git repository of this host as a tar for a guest: the tracked
// files as they are in the work tree, and a .git of one commit, so that status, diff
// and log work in the guest.
//
// A repository isn't trusted: only package git runs git, and files are opened beneath
// the top of the work tree, never through a symbolic link. Of the host's configuration
// the guest gets only the name and address of a commit's author.
//
// It owns what goes into the tar. It knows nothing of how a tar gets into a guest.
package send

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"banger"
	"banger/workspace/git"
)

// Options say what of a repository goes, and how.
type Options struct {
	IncludeUntracked bool   // take files git doesn't know, but not those it ignores
	Branch           string // the branch that the guest is on; empty: that of the checkout
	From             string // with Branch: what it begins at, in place of the checkout; its files go then
	Depth            int    // how many commits of history go; 0: one, -1: all
	ReadOnly         bool   // nobody but the guest's root may write the files
}

// Repo is a repository with a work tree. Its Options may be set until Files, Record or Tar
// is called; after that a Repo is read-only.
type Repo struct {
	Name string // base name of the top directory
	Top  string // absolute path of the top of the work tree, links resolved
	Dir  string // the path given to Open, relative to Top: "." or "cmd/x"

	Options

	git   *git.Repo
	files *Files // made by the first scan
	now   *snapshot
	head  *git.Head
}

// Open finds the repository that a path is in. CodeInvalid when there is no such path,
// no repository, or none with a work tree; CodeUnavailable when git is missing.
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
	r.git, err = git.Open(ctx, top)
	return r, err
}

var errNone = errors.New("is not in a git repository")

// NotRepository reports whether Open found a directory that is in no repository.
func NotRepository(err error) bool { return errors.Is(err, errNone) }

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
			return "", banger.Errorf(banger.CodeInvalid, "%s %w", dir, errNone).
				WithHint("git init %s && git -C %[1]s add . makes it one", dir)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

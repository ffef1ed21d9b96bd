package workspace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"banger"
)

// A repository that came as an archive may say that its .git is elsewhere, or
// that its branches are: in another repository of this host, say, whose newest
// commit would then go into the guest. So a .git that isn't a plain directory
// must be one that the place it names knows about, and nothing that says which
// commit is the newest may be a symbolic link.

// checkGitDir finds the repository's git directory and makes sure it is its own.
func (r *Repo) checkGitDir(ctx context.Context) error {
	dotGit := filepath.Join(r.Top, ".git")
	info, err := os.Lstat(dotGit)
	if err != nil {
		return err
	}
	r.gitDir, r.commonDir = dotGit, dotGit
	if !info.IsDir() || exists(filepath.Join(dotGit, "commondir")) {
		if r.gitDir, err = r.gitPath(ctx, "--absolute-git-dir"); err != nil {
			return err
		}
		if r.commonDir, err = r.gitPath(ctx, "--path-format=absolute", "--git-common-dir"); err != nil {
			return err
		}
		if info.Mode().Type() != 0 || !r.isWorktree() && !r.isSeparate(ctx) {
			return banger.Errorf(banger.CodeInvalid, "%s leads to %s, which doesn't know this work tree", dotGit, r.gitDir).
				WithHint("if that is right: git config -f %s/config core.worktree %s", r.gitDir, r.Top)
		}
	}
	return r.refuseLinks("HEAD", "index", "packed-refs", "refs", "refs/heads")
}

func (r *Repo) gitPath(ctx context.Context, args ...string) (string, error) {
	out, err := r.git(ctx, nil, append([]string{"rev-parse"}, args...)...)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(strings.TrimSuffix(string(out), "\n"))
}

// isWorktree says whether git worktree(1) made this work tree: the main
// repository has a record of it.
func (r *Repo) isWorktree() bool {
	if filepath.Dir(r.gitDir) != filepath.Join(r.commonDir, "worktrees") {
		return false
	}
	back, err := os.ReadFile(filepath.Join(r.gitDir, "gitdir"))
	return err == nil && strings.TrimSuffix(string(back), "\n") == filepath.Join(r.Top, ".git")
}

// isSeparate says whether the git directory is elsewhere, as a submodule's is,
// and names this work tree.
func (r *Repo) isSeparate(ctx context.Context) bool {
	if r.gitDir != r.commonDir {
		return false
	}
	out, err := r.git(ctx, nil, "config", "--file", filepath.Join(r.gitDir, "config"), "--get", "core.worktree")
	back := strings.TrimSuffix(string(out), "\n")
	if err != nil || back == "" {
		return false
	}
	if !filepath.IsAbs(back) {
		back = filepath.Join(r.gitDir, back)
	}
	back, err = filepath.EvalSymlinks(back)
	return err == nil && back == r.Top
}

// refuseLinks refuses symbolic links among what says where the repository stands.
func (r *Repo) refuseLinks(names ...string) error {
	for _, dir := range []string{r.gitDir, r.commonDir} {
		for _, name := range names {
			file := filepath.Join(dir, name)
			info, err := os.Lstat(file)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return banger.Errorf(banger.CodeInvalid, "read the repository: %w", err)
			}
			if info.Mode()&os.ModeSymlink != 0 {
				return banger.Errorf(banger.CodeInvalid, "%s is a symbolic link", file).
					WithHint("it could lead to another repository of this host; make a clone, or git worktree add")
			}
		}
	}
	return nil
}

// refuseBranchLinks does the same for every directory above a branch's file.
func (r *Repo) refuseBranchLinks(branch string) error {
	for at := branch; at != "." && at != "refs"; at = filepath.Dir(at) {
		if err := r.refuseLinks(at); err != nil {
			return err
		}
	}
	return nil
}

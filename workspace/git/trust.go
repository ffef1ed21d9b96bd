package git

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"banger"
)

// A repository that came as an archive may say that its .git, its branches or its
// objects are in another directory. That could be another repository of this host,
// whose newest commit would then go into the guest. So if .git isn't a plain
// directory, the directory that it names must name this work tree in turn. And no file
// that names or holds the newest commit may be a symbolic link or be elsewhere.

// checkGitDir finds the git directory and makes sure that it is this repository's own.
func (r *Repo) checkGitDir(ctx context.Context) error {
	dotGit := filepath.Join(r.Top, ".git")
	info, err := os.Lstat(dotGit)
	if err != nil {
		return err
	}
	r.gitDir, r.commonDir = dotGit, dotGit
	if !info.IsDir() || linked(dotGit) {
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
	if err := r.refuseLinks("HEAD", "index", "packed-refs", "refs", "refs/heads", "objects", "objects/info", "reftable"); err != nil {
		return err
	}
	return r.refuseForeignObjects()
}

// refuseForeignObjects refuses objects that are in another repository: a hostile
// repository could name a commit from there as its newest one.
func (r *Repo) refuseForeignObjects() error {
	for _, dir := range []string{r.gitDir, r.commonDir} {
		alternates := filepath.Join(dir, "objects/info/alternates")
		if text, err := os.ReadFile(alternates); err == nil && len(bytes.TrimSpace(text)) > 0 {
			return banger.Errorf(banger.CodeInvalid, "%s says that objects are in another repository", alternates).
				WithHint("if that is right, copy them into this one: git repack -a -d && rm %s", alternates)
		}
		for _, store := range []string{"objects", "reftable"} {
			err := filepath.WalkDir(filepath.Join(dir, store), func(path string, e os.DirEntry, err error) error {
				if err == nil && e.Type()&os.ModeSymlink != 0 {
					return foreign(path)
				}
				if errors.Is(err, os.ErrNotExist) {
					return nil // none, or gone meanwhile
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func foreign(link string) error {
	return banger.Errorf(banger.CodeInvalid, "%s is a symbolic link", link).
		WithHint("it could lead to another repository of this host; make a clone, or git worktree add")
}

// linked reports whether a git directory has its branches and objects elsewhere.
func linked(gitDir string) bool {
	_, err := os.Lstat(filepath.Join(gitDir, "commondir"))
	return err == nil
}

func (r *Repo) gitPath(ctx context.Context, args ...string) (string, error) {
	out, err := r.Run(ctx, nil, append([]string{"rev-parse"}, args...)...)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(strings.TrimSuffix(string(out), "\n"))
}

// isWorktree reports whether git worktree(1) made this work tree: then the main
// repository has a record of it.
func (r *Repo) isWorktree() bool {
	if filepath.Dir(r.gitDir) != filepath.Join(r.commonDir, "worktrees") {
		return false
	}
	back, err := os.ReadFile(filepath.Join(r.gitDir, "gitdir"))
	return err == nil && strings.TrimSuffix(string(back), "\n") == filepath.Join(r.Top, ".git")
}

// isSeparate reports whether the git directory is elsewhere, as a submodule's is, and
// names this work tree.
func (r *Repo) isSeparate(ctx context.Context) bool {
	if r.gitDir != r.commonDir {
		return false
	}
	out, err := r.Run(ctx, nil, "config", "--file", filepath.Join(r.gitDir, "config"), "--get", "core.worktree")
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

// refuseLinks refuses symbolic links among the files that name the newest commit.
func (r *Repo) refuseLinks(names ...string) error {
	for _, dir := range []string{r.gitDir, r.commonDir} {
		for _, name := range names {
			file := filepath.Join(dir, name)
			info, err := os.Lstat(file)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // a reftable has a file called refs/heads
				continue
			}
			if err != nil {
				return banger.Errorf(banger.CodeInvalid, "read the repository: %w", err)
			}
			if info.Mode()&os.ModeSymlink != 0 {
				return foreign(file)
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

// Head is a repository's newest commit and branch.
type Head struct {
	Commit string // "" before the first commit
	Branch string // full name, "refs/heads/main"; "" when detached
}

// Head returns the newest commit and branch. CodeInvalid when HEAD names neither.
func (r *Repo) Head(ctx context.Context) (Head, error) {
	var h Head
	out, err := r.Run(ctx, nil, "symbolic-ref", "-q", "HEAD")
	if err != nil && !SaidNo(err) {
		return h, err
	}
	h.Branch = strings.TrimSpace(string(out))
	if h.Branch != "" && (!strings.HasPrefix(h.Branch, "refs/heads/") || CheckPath(h.Branch) != nil || strings.ContainsAny(h.Branch, "\x00\n")) {
		return h, banger.Errorf(banger.CodeInvalid, "the repository's HEAD is %.100q, not a branch", h.Branch)
	}
	if err := r.refuseBranchLinks(h.Branch); h.Branch != "" && err != nil {
		return h, err
	}
	out, err = r.Run(ctx, nil, "rev-parse", "--verify", "-q", "HEAD^{commit}")
	if err != nil && !SaidNo(err) {
		return h, err
	}
	h.Commit = strings.TrimSpace(string(out))
	if h.Commit == "" && h.Branch == "" {
		return h, banger.Errorf(banger.CodeInvalid, "the repository's HEAD names neither a branch nor a commit")
	}
	return h, nil
}

// CheckPath refuses paths that git itself would never put into an index.
func CheckPath(path string) error {
	bad := !filepath.IsLocal(path)
	for part := range strings.SplitSeq(path, "/") {
		bad = bad || part == "" || part == "." || strings.EqualFold(part, ".git")
	}
	if bad {
		return banger.Errorf(banger.CodeInvalid, "the repository's index names %.200q, which no file of a work tree can be called", path).
			WithHint("the repository is damaged or hostile")
	}
	return nil
}

// IsGit reports whether an element of a path is one that some file system takes for .git.
func IsGit(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if strings.EqualFold(part, ".git") {
			return true
		}
	}
	return false
}

// CheckRefs refuses refs that a symbolic link would lead out of the repository.
func (r *Repo) CheckRefs(names ...string) error {
	for _, name := range names {
		for at := name; at != "."; at = filepath.Dir(at) {
			if err := r.refuseLinks(at, filepath.Join("logs", at)); err != nil {
				return err
			}
		}
	}
	return r.refuseLinks("logs")
}

// Index is the path of the index.
func (r *Repo) Index() string { return filepath.Join(r.gitDir, "index") }

// Objects is the path of the directory of its objects.
func (r *Repo) Objects() string { return filepath.Join(r.commonDir, "objects") }

// Commit returns the commit that a user calls so. CodeInvalid when there is none.
func (r *Repo) Commit(ctx context.Context, name string) (string, error) {
	out, err := r.Run(ctx, nil, "rev-parse", "--verify", "-q", name+"^{commit}")
	if strings.HasPrefix(name, "-") || SaidNo(err) || err == nil && len(out) == 0 {
		return "", banger.Errorf(banger.CodeInvalid, "%s has no commit %.100q", r.Top, name).WithHint("git log --oneline --all lists them")
	}
	return strings.TrimSpace(string(out)), err
}

// Tree returns the name of a commit's tree.
func (r *Repo) Tree(ctx context.Context, commit string) (string, error) {
	out, err := r.Run(ctx, nil, "rev-parse", "--verify", "-q", commit+"^{tree}")
	return strings.TrimSpace(string(out)), err
}

// BranchName returns the full name of a branch that a user calls so. CodeInvalid when none
// can be called that.
func (r *Repo) BranchName(ctx context.Context, name string) (string, error) {
	ref := "refs/heads/" + name
	if _, err := r.Run(ctx, nil, "check-ref-format", ref); err != nil || strings.HasPrefix(name, "-") || name == "HEAD" {
		return "", banger.Errorf(banger.CodeInvalid, "%.100q can't be a branch's name", name)
	}
	return ref, nil
}

// Shallow lists the commits whose parents the repository doesn't have, at most so many.
func (r *Repo) Shallow(most int) []string {
	file := filepath.Join(r.commonDir, "shallow")
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() || info.Size() > int64(most)*65 {
		return nil
	}
	text, _ := os.ReadFile(file)
	return strings.Fields(string(text))
}

// Has reports whether the repository has a commit.
func (r *Repo) Has(ctx context.Context, commit string) bool {
	_, err := r.Run(ctx, nil, "cat-file", "-e", commit+"^{commit}")
	return err == nil
}

// Partial reports whether objects may be missing that a server is to give (partial clone).
func (r *Repo) Partial(ctx context.Context) bool {
	out, err := r.Run(ctx, nil, "config", "--local", "--get", "extensions.partialclone")
	return err == nil && len(out) > 1
}

// Branch returns the commit of a branch, "" before its first, and the work tree that has it
// checked out, "" when none has.
func (r *Repo) Branch(ctx context.Context, ref string) (commit, where string, err error) {
	out, err := r.Run(ctx, nil, "for-each-ref", "--format=%(objectname) %(worktreepath)", ref)
	if err != nil {
		return "", "", err
	}
	if len(out) == 0 { // the first commit in a work tree would make it
		list, err := r.Run(ctx, nil, "worktree", "list", "--porcelain")
		for line := range strings.Lines(string(list)) {
			if path, ok := strings.CutPrefix(line, "worktree "); ok {
				where = strings.TrimSuffix(path, "\n")
			} else if line == "branch "+ref+"\n" {
				return "", where, err
			}
		}
		return "", "", err
	}
	commit, where, _ = strings.Cut(strings.TrimSuffix(string(out), "\n"), " ")
	return commit, where, nil
}

package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"banger"
)

// What changes the user's files, or looks at all of them, has git run the filters that
// .gitattributes name. Those that the user set up for himself run, as always. Those that
// the repository's own configuration brings along don't.

// ownFilters are variables that turn off the filters of the repository's configuration.
func (r *Repo) ownFilters(ctx context.Context) ([]string, error) {
	out, err := r.Run(ctx, nil, "config", "--show-scope", "--includes", "-z", "--name-only", "--get-regexp", `^filter\.`)
	if err != nil && !SaidNo(err) {
		return nil, err
	}
	seen := map[string]bool{}
	fields := strings.Split(string(out), "\x00")
	for i := 0; i+1 < len(fields); i += 2 {
		if scope, key := fields[i], fields[i+1]; scope == "local" || scope == "worktree" {
			seen[key[:strings.LastIndexByte(key, '.')]] = true
		}
	}
	var env []string
	n := 0
	for filter := range seen {
		for _, s := range []string{"clean", "smudge", "process", "required"} {
			value := ""
			if s == "required" {
				value = "false"
			}
			env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s.%s", n, filter, s), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", n, value))
			n++
		}
	}
	return append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", n)), nil
}

// unfinished are the files of what git was doing when it stopped for its user.
var unfinished = map[string]string{"MERGE_HEAD": "a merge", "CHERRY_PICK_HEAD": "a cherry-pick", "REVERT_HEAD": "a revert", "rebase-merge": "a rebase", "rebase-apply": "a rebase", "BISECT_LOG": "a bisect"}

// Clean returns an error of CodeConflict if the checkout has changes that aren't
// committed, or something is unfinished in it.
func (r *Repo) Clean(ctx context.Context) error {
	for file, what := range unfinished {
		if _, err := os.Lstat(filepath.Join(r.gitDir, file)); !errors.Is(err, os.ErrNotExist) {
			return banger.Errorf(banger.CodeConflict, "%s has %s that isn't finished", r.Top, what).WithHint("git status says how to end it")
		}
	}
	env, err := r.ownFilters(ctx)
	if err != nil {
		return err
	}
	out, err := r.RunEnv(ctx, env, nil, "status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=all")
	if err != nil {
		return err
	}
	if n := bytes.Count(out, []byte{0}); n > 0 {
		first, _, _ := strings.Cut(string(out), "\x00")
		return banger.Errorf(banger.CodeConflict, "%s has changes that aren't committed: %q and %d more", r.Top, first[min(3, len(first)):], n-1).
			WithHint("commit them, or put them aside: git stash")
	}
	return nil
}

// FastForward brings branch and files of the checkout to a commit that is ahead of its own.
// Once begun, it goes on to its end. Files in its way stay as they are, and nothing
// changes then: CodeConflict.
func (r *Repo) FastForward(ctx context.Context, commit, why string) error {
	env, err := r.ownFilters(ctx)
	if err != nil {
		return err
	}
	h, err := r.Head(ctx)
	if err == nil && h.Commit == "" { // git overwrites files there that it is told to ignore, whatever it is asked
		var list []byte
		if list, err = r.Run(ctx, nil, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit); err == nil {
			err = free(r.Top, string(list))
		}
	}
	if err != nil {
		return err
	}
	args := []string{"-c", "merge.autoStash=false", "-c", "merge.verifySignatures=false"}
	if name, ok := strings.CutPrefix(h.Branch, "refs/heads/"); ok { // options of the repository's: they run gpg, or make another commit
		args = append(args, "--config-env=branch."+name+".mergeOptions=BANGER_NOTHING")
	}
	err = r.Call(ctx, Call{Env: append(env, "BANGER_NOTHING=", "GIT_REFLOG_ACTION="+why), Whole: true,
		Args: append(args, "merge", "--ff-only", "--no-overwrite-ignore", "--quiet", "--no-stat", commit)})
	if e, ok := errors.AsType[*gitError](err); ok {
		return banger.Errorf(banger.CodeConflict, "git doesn't bring %s there: %s", r.Top, e.said).
			WithHint("files that git doesn't know, or ignores, may be in the way: git status --ignored")
	}
	if err != nil {
		return err
	}
	if h, err = r.Head(context.WithoutCancel(ctx)); err == nil && h.Commit != commit {
		err = banger.Errorf(banger.CodeInternal, "git brought %s to %.12s, not to %.12s", r.Top, h.Commit, commit)
	}
	return err
}

// free makes sure that none of these files, each with a zero byte after it, is in a work
// tree, not even as one that git ignores. CodeConflict if one is.
func free(top, list string) error {
	for name := range strings.SplitSeq(list, "\x00") {
		for at := name; name != "" && at != "."; at = filepath.Dir(at) {
			info, err := os.Lstat(filepath.Join(top, at))
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
				continue // one above it may be in the way
			}
			if err != nil || at == name || !info.IsDir() {
				return banger.Errorf(banger.CodeConflict, "%s has a file %q already, in the way of one that comes", top, at).
					WithHint("put it elsewhere, then do this again")
			}
			break
		}
	}
	return nil
}

// Who returns name and mail of the repository's user, as variables for a commit.
// CodeInvalid if git knows none.
func (r *Repo) Who(ctx context.Context) ([]string, error) {
	var env []string
	for key, name := range map[string]string{"name": "NAME", "email": "EMAIL"} {
		out, err := r.Run(ctx, nil, "config", "--get", "user."+key)
		value := strings.TrimSpace(string(out))
		if err != nil || value == "" {
			return nil, banger.Errorf(banger.CodeInvalid, "a merge is a commit, and git doesn't know your %s", key).
				WithHint("git config --global user.%s ...", key)
		}
		env = append(env, "GIT_AUTHOR_"+name+"="+value, "GIT_COMMITTER_"+name+"="+value)
	}
	return env, nil
}

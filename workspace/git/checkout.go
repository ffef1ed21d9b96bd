package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
	err = r.Call(ctx, Call{Env: append(env, "GIT_REFLOG_ACTION="+why), Whole: true,
		Args: []string{"-c", "merge.autoStash=false", "-c", "merge.verifySignatures=false", "merge", "--ff-only", "--quiet", "--no-stat", commit}})
	if e, ok := errors.AsType[*gitError](err); ok {
		return banger.Errorf(banger.CodeConflict, "git doesn't bring %s there: %s", r.Top, e.said).
			WithHint("files that git doesn't know may be in the way: git status")
	}
	return err
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

// Package git asks git about a repository that isn't trusted: somebody else may have
// written its configuration, its index and its objects. It owns the safe way to run
// git for that, and the checks that a repository's files are its own.
//
// Use only commands that never run a program which the repository can name. Status,
// diff, checkout and fetch run filters, textconv, hooks or ssh. The package knows
// nothing of what the answers are for.
package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"banger"
)

// Oldest is the oldest git that refuses repositories of other users (2.35.2).
// Distributions have patched older ones to do so, too.
var Oldest = [3]int{2, 35, 2}

// Version returns the version of the git in PATH, as text and in numbers.
func Version(ctx context.Context) (string, [3]int, error) {
	out, err := exec.CommandContext(ctx, "git", "version").Output()
	if err != nil {
		return "", [3]int{}, err
	}
	text := strings.TrimPrefix(strings.TrimSpace(string(out)), "git version ")
	var n [3]int
	if found, _ := fmt.Sscanf(text, "%d.%d.%d", &n[0], &n[1], &n[2]); found < 2 {
		return "", n, fmt.Errorf("git version says %.80q", text)
	}
	return text, n, nil
}

// overrides turn off what a repository's configuration could use to run programs,
// reach the network or write. The user's and the system's configuration stay in
// effect: they say which directories are safe and which files are ignored everywhere.
var overrides = []string{
	"core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat", "core.askPass=", "core.sshCommand=false",
	"core.splitIndex=false", "core.untrackedCache=false", "credential.helper=", "protocol.allow=never",
	"gc.auto=0", "maintenance.auto=false", "submodule.recurse=false",
}

// Repo is a repository with a work tree.
type Repo struct {
	Top    string // absolute path of the top of the work tree, links resolved
	Format string // of object names: "sha1" or "sha256"

	gitDir    string // where its own HEAD and index are
	commonDir string // where its branches and objects are; another one in a linked work tree
}

// Open opens the repository whose work tree has this top directory. CodeInvalid when
// git refuses to read it or its .git isn't its own, CodeUnavailable without git.
func Open(ctx context.Context, top string) (*Repo, error) {
	r := &Repo{Top: top}
	out, err := r.Run(ctx, nil, "rev-parse", "--is-inside-work-tree", "--show-object-format")
	switch {
	case err == nil:
	case banger.CodeOf(err) != banger.CodeInternal:
		return nil, err
	case strings.Contains(err.Error(), "dubious ownership"):
		return nil, banger.Errorf(banger.CodeInvalid, "%s belongs to another user, git refuses to read it", r.Top).
			WithHint("if you trust it: git config --global --add safe.directory %s", r.Top)
	default:
		return nil, banger.Errorf(banger.CodeInvalid, "%s: %w", r.Top, err)
	}
	f := strings.Fields(string(out))
	if len(f) != 2 || f[0] != "true" {
		return nil, banger.Errorf(banger.CodeInvalid, "%s is not the top of a work tree", r.Top)
	}
	r.Format = f[1]
	return r, r.checkGitDir(ctx)
}

// Run runs a git command on the repository and returns its output. It removes GIT_*
// variables from the environment: they could point anywhere.
func (r *Repo) Run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	return r.RunEnv(ctx, nil, stdin, args...)
}

// RunEnv is Run with more variables, as KEY=value.
func (r *Repo) RunEnv(ctx context.Context, env []string, stdin io.Reader, args ...string) ([]byte, error) {
	path, err := exec.LookPath("git")
	if err != nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "git is needed to read a repository: %w", err).
			WithHint("apt install git")
	}
	var all []string
	for _, o := range overrides {
		all = append(all, "-c", o)
	}
	cmd := exec.CommandContext(ctx, path, append(all, args...)...)
	cmd.Dir, cmd.Stdin = r.Top, stdin
	cmd.WaitDelay = time.Second
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR", "SUDO_UID"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	// GIT_ALLOW_PROTOCOL forbids all access to servers. Other settings don't suffice: a
	// repository's protocol.NAME.allow overrides our protocol.allow, and older gits
	// don't know GIT_NO_LAZY_FETCH and fetch missing objects.
	cmd.Env = append(cmd.Env, "LC_ALL=C", "GIT_WORK_TREE="+r.Top, "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.Top),
		"GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none", "GIT_NO_REPLACE_OBJECTS=1", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0")
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, banger.Errorf(banger.CodeCanceled, "git %s: %w", args[0], context.Cause(ctx))
		}
		first, _, _ := strings.Cut(strings.TrimSpace(errs.String()), "\n")
		return nil, &gitError{args[0], first, err}
	}
	return out.Bytes(), nil
}

// gitError is the error of a git command that failed.
type gitError struct {
	command, said string
	err           error
}

func (e *gitError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("git %s: %v", e.command, e.err)
	}
	return fmt.Sprintf("git %s: %.300q", e.command, e.said)
}

func (e *gitError) Unwrap() error { return e.err }

// SaidNo reports whether a command ended with status 1, with which some commands
// answer "no".
func SaidNo(err error) bool {
	e, ok := errors.AsType[*exec.ExitError](err)
	return ok && e.ExitCode() == 1
}

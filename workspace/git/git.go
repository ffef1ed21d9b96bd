package workspace

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

// overrides close what a repository's configuration could use to run programs,
// reach the network or write. The user's and the system's configuration count:
// they say which directories are safe and which files are ignored everywhere.
var overrides = []string{
	"core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat", "core.askPass=", "core.sshCommand=false",
	"core.splitIndex=false", "core.untrackedCache=false", "credential.helper=", "protocol.allow=never",
	"gc.auto=0", "maintenance.auto=false", "submodule.recurse=false",
}

// git runs a git command on the repository and returns what it writes. GIT_*
// variables of the caller don't count: they could point anywhere.
func (r *Repo) git(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	return r.gitEnv(ctx, nil, stdin, args...)
}

func (r *Repo) gitEnv(ctx context.Context, env []string, stdin io.Reader, args ...string) ([]byte, error) {
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
	cmd.Env = append(cmd.Env, "LC_ALL=C", "GIT_WORK_TREE="+r.Top, "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.Top),
		"GIT_NO_LAZY_FETCH=1", "GIT_NO_REPLACE_OBJECTS=1", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0")
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

// gitError is a git command that said no.
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

// saidNo tells a command whose exit status 1 is an answer from one that failed.
func saidNo(err error) bool {
	e, ok := errors.AsType[*exec.ExitError](err)
	return ok && e.ExitCode() == 1
}

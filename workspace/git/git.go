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
	"syscall"
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
	var out bytes.Buffer
	err := r.Call(ctx, Call{Args: args, Env: env, Stdin: stdin, Stdout: &out})
	return out.Bytes(), err
}

// Call is one run of git.
type Call struct {
	Args   []string
	Env    []string  // more variables, as KEY=value
	Stdin  io.Reader // nil: empty
	Stdout io.Writer // nil: nobody reads it
	// Whole is a run that changes the user's files: whatever ends the caller doesn't end it.
	Whole bool
	// Bounds hold for a run that reads what a guest wrote.
	Bounds *Bounds
}

// Call runs git on the repository.
func (r *Repo) Call(ctx context.Context, c Call) error {
	var all []string
	for _, o := range overrides {
		all = append(all, "-c", o)
	}
	c.Args = append(all, c.Args...)
	// GIT_ALLOW_PROTOCOL forbids all access to servers. Other settings don't suffice: a
	// repository's protocol.NAME.allow overrides our protocol.allow, and older gits
	// don't know GIT_NO_LAZY_FETCH and fetch missing objects.
	c.Env = append([]string{"GIT_WORK_TREE=" + r.Top, "GIT_CEILING_DIRECTORIES=" + filepath.Dir(r.Top), "GIT_OPTIONAL_LOCKS=0"}, c.Env...)
	return call(ctx, r.Top, len(all), c)
}

// call runs git in a directory. The command's name comes after so many arguments.
func call(ctx context.Context, dir string, name int, c Call) error {
	path, err := exec.LookPath("git")
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "git is needed to read a repository: %w", err).
			WithHint("apt install git")
	}
	if c.Whole {
		ctx = context.WithoutCancel(ctx)
	}
	cmd := exec.CommandContext(ctx, path, c.Args...)
	cmd.Dir, cmd.Stdin, cmd.Stdout = dir, c.Stdin, c.Stdout
	cmd.WaitDelay = time.Second
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR", "SUDO_UID"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C", "GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none", "GIT_NO_REPLACE_OBJECTS=1", "GIT_TERMINAL_PROMPT=0")
	cmd.Env = append(cmd.Env, c.Env...)
	var errs head
	cmd.Stderr = &errs
	err = run(cmd, c, &errs)
	if err != nil {
		if ctx.Err() != nil {
			return banger.Errorf(banger.CodeCanceled, "git %s: %w", c.Args[name], context.Cause(ctx))
		}
		return &gitError{c.Args[name], firstLine(string(errs)), err}
	}
	return nil
}

// run runs a command to its end and has in said what it complains of.
func run(cmd *exec.Cmd, c Call, said *head) error {
	if c.Whole {
		// No signal of the terminal's, and no pipe that breaks with us, may end it in the middle.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		f, err := os.CreateTemp("", "banger-git-*")
		if err != nil {
			return err
		}
		defer f.Close()
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
		cmd.Stderr = f
		defer func() { _, _ = io.Copy(said, io.NewSectionReader(f, 0, 8<<10)) }()
	}
	if err := start(cmd, c.Bounds); err != nil {
		return err
	}
	return cmd.Wait()
}

// firstLine is the first line of what git said that isn't only a warning.
func firstLine(said string) string {
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "warning: ") && !strings.HasPrefix(line, "hint: ") {
			return line
		}
	}
	first, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
	return first
}

// head keeps the beginning of what is written to it: a git that complains without end
// fills no memory.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), 8<<10-len(*h))]...)
	return len(p), nil
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

package take

import (
	"bytes"
	"context"
	"strings"

	"banger"
	"banger/workspace/git"
)

// Merge returns the commit that has both the work and a commit of the host: one of the two
// if it has the other, else a new one, which who makes. It is made in the throw-away
// repository. CodeConflict, with git's own words, when the two don't go together.
func (w *Work) Merge(ctx context.Context, ours, message string, who []string) (commit string, err error) {
	ancestor := func(a, b string) bool {
		return w.bare.Call(ctx, git.Call{Args: []string{"merge-base", "--is-ancestor", a, b}}) == nil
	}
	switch {
	case ours == "" || ours == w.Tip || ancestor(ours, w.Tip):
		return w.Tip, nil
	case ancestor(w.Tip, ours):
		return ours, nil
	}
	if w.bare.Call(ctx, git.Call{Args: []string{"merge-base", ours, w.Tip}}) != nil {
		return "", banger.Errorf(banger.CodeConflict, "the VM's commits don't go back to any of yours: its first commit was written anew there").
			WithHint("`banger workspace export VM | git apply` brings the changes without the commits")
	}
	if who == nil {
		if who, err = w.Host.Who(ctx); err != nil {
			return "", err
		}
	}
	var out bytes.Buffer
	err = w.bare.Call(ctx, git.Call{Args: []string{"merge-tree", "--write-tree", "--name-only", "--messages", ours, w.Tip}, Stdout: &out, Bounds: w.bounds()})
	tree, rest, _ := strings.Cut(out.String(), "\n")
	switch {
	case git.SaidNo(err):
		_, said, _ := strings.Cut(rest, "\n\n")
		return "", &Conflict{said}
	case err != nil:
		return "", banger.Errorf(banger.CodeUnavailable, "the work isn't ahead of your branch, and this git can't merge it: %w", err).
			WithHint("git 2.38 can; or merge by hand after `banger workspace export VM --branch NAME`")
	}
	out.Reset()
	err = w.bare.Call(ctx, git.Call{Args: []string{"commit-tree", tree, "-p", ours, "-p", w.Tip, "-m", message}, Env: who, Stdout: &out})
	return strings.TrimSpace(out.String()), err
}

// Conflict is the error of work that doesn't go together with the host's. Said is what git
// says of it, a line for each file.
type Conflict struct{ Said string }

// Error implements error.
func (c *Conflict) Error() string { return "the work and your commits change the same lines" }

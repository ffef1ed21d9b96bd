package cli

import (
	"context"
	"fmt"
	"io"

	"banger"
	"banger/guest"
	"banger/workspace"
)

// repoParent is the guest's directory that holds the repository.
const repoParent = "/root"

// openRepo finds the repository a path lies in, before any VM is made for it,
// and says what of it stays behind.
func (a *App) openRepo(ctx context.Context, dir string, untracked, quiet bool) (*workspace.Repo, error) {
	repo, err := workspace.Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	repo.IncludeUntracked = untracked
	files, err := repo.Files(ctx)
	if err != nil {
		return nil, err
	}
	if n := files.Untracked; n > 0 && !untracked && !quiet {
		_, _ = fmt.Fprintf(a.Err, "banger: untracked files stay behind: %d (--include-untracked takes them)\n", n)
	}
	if n := len(files.Submodules); n > 0 && !quiet {
		_, _ = fmt.Fprintf(a.Err, "banger: submodules stay empty: %d\n", n)
	}
	return repo, nil
}

// putRepo copies the repository into the guest.
func (a *App) putRepo(ctx context.Context, vm banger.VM, repo *workspace.Repo, show *progress) error {
	r, w := io.Pipe()
	c := &counter{w: w, step: func(n int64) { show.event(banger.Event{VM: vm.ID, Stage: "workspace", Done: n}) }}
	tarred := make(chan error, 1)
	go func() {
		err := repo.Tar(ctx, c)
		_ = w.CloseWithError(err)
		tarred <- err
	}()
	err := a.guest(vm).Put(ctx, repoParent, r, guest.PutOptions{})
	_ = r.CloseWithError(io.ErrClosedPipe)
	if terr := <-tarred; terr != nil && banger.CodeOf(terr) != banger.CodeInternal {
		return terr // the cause, where Put only saw its stream break
	}
	return err
}

type counter struct {
	w    io.Writer
	n    int64
	step func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.step(c.n)
	return n, err
}

package cli

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger"
	"banger/guest"
	"banger/guest/tartree"
	"banger/workspace/send"
)

// filesParent is the guest's directory that files are copied into.
const filesParent = "/root"

// askAbove is the size of a directory from which a person is asked before it is copied
// as it is.
const askAbove = 1 << 30

// files are what is copied into a new VM: a repository, or a directory as it is.
type files struct {
	parent string // the guest's directory that they go into
	name   string // of the directory they become
	dir    string // below that, where commands begin
	total  int64  // bytes, where that is known
	tar    func(ctx context.Context, w io.Writer) error
	repo   *send.Repo // nil: a directory as it is
}

// filesFlags say what is copied into a new VM.
type filesFlags struct{ untracked, yes, quiet bool }

// open finds what a path stands for, and tells a person what of it is copied. It is
// called before the VM is made.
func (f *filesFlags) open(ctx context.Context, a *App, dir string) (*files, error) {
	if _, err := os.Lstat(dir); os.IsNotExist(err) && !strings.ContainsAny(dir, "./") {
		return nil, notThere(ctx, a, dir)
	}
	repo, err := send.Open(ctx, dir)
	if send.NotRepository(err) {
		return f.asItIs(ctx, a, dir)
	}
	if err != nil {
		return nil, err
	}
	repo.IncludeUntracked = f.untracked
	found, err := repo.Files(ctx)
	if err != nil {
		return nil, err
	}
	if n := found.Untracked; n > 0 && !f.untracked && !f.quiet {
		a.note("untracked files stay behind: %d (--include-untracked copies them)", n)
	}
	if n := len(found.Submodules); n > 0 && !f.quiet {
		a.note("submodules stay empty: %d", n)
	}
	return &files{parent: filesParent, name: repo.Name, dir: repo.Dir, tar: repo.Tar, repo: repo}, nil
}

// notThere is the error of a word that is no path. Who types it may mean an image or a
// command.
func notThere(ctx context.Context, a *App, word string) error {
	err := banger.Errorf(banger.CodeInvalid, "there is no directory %q", word)
	if _, known := a.Images().Image(ctx, word); known == nil {
		return err.WithHint("an image is chosen by a flag: banger run --image %s", word)
	}
	return err.WithHint("an image: banger run --image NAME, of those that `banger image list` shows; a command: banger run -- %s", word)
}

// asItIs is a directory that isn't in a repository: all of it is copied. A person is
// asked before much is, or a whole home.
func (f *filesFlags) asItIs(ctx context.Context, a *App, dir string) (*files, error) {
	top, err := filepath.Abs(dir)
	if err == nil {
		top, err = filepath.EvalSymlinks(top)
	}
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	if top == "/" {
		return nil, banger.Errorf(banger.CodeInvalid, "%s is all of this host", dir).WithHint("name a directory of it")
	}
	n, bytes, err := measure(ctx, top)
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%w", err).WithHint("name a directory whose files you may read")
	}
	home, _ := os.UserHomeDir()
	if !f.yes && (bytes > askAbove || top == home) {
		if err := a.confirm("-y", "copy all of %s into the VM: %d files, %s", dir, n, formatBytes(bytes)); err != nil {
			return nil, err
		}
	} else if !f.quiet {
		a.note("copying all of %s, which isn't a git repository: %d files, %s", dir, n, formatBytes(bytes))
	}
	return &files{parent: filesParent, name: filepath.Base(top), total: bytes, tar: func(_ context.Context, w io.Writer) error { return tartree.Pack(w, top) }}, nil
}

// measure counts the files below a directory, and their bytes.
func measure(ctx context.Context, top string) (n int, bytes int64, err error) {
	err = filepath.WalkDir(top, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || d.IsDir() {
			return err
		}
		n++
		if info, err := d.Info(); err == nil && d.Type().IsRegular() {
			bytes += info.Size()
		}
		return nil
	})
	return n, bytes, err
}

// place is the directory of the guest where commands begin.
func (f *files) place() string { return path.Join(f.parent, f.name, f.dir) }

// put copies the files into the guest.
func (f *files) put(ctx context.Context, a *App, vm banger.VM, show *progress) error {
	r, w := io.Pipe()
	c := &counter{w: w, step: func(n int64) { show.event(banger.Event{VM: vm.ID, Stage: "workspace", Done: n, Total: f.total}) }}
	tarred := make(chan error, 1)
	go func() {
		err := f.tar(ctx, c)
		_ = w.CloseWithError(err)
		tarred <- err
	}()
	sent := make(chan string, 1)
	go func() { sent <- f.snapshot(ctx) }()
	err := a.guest(vm).Put(ctx, f.parent, r, guest.PutOptions{})
	_ = r.CloseWithError(io.ErrClosedPipe)
	if terr := <-tarred; terr != nil && banger.CodeOf(terr) != banger.CodeInternal {
		return terr // the cause: Put only saw its stream break
	}
	if err != nil || f.repo == nil {
		return err
	}
	record, err := f.repo.Record(ctx, path.Join(f.parent, f.name))
	if record.Sent = <-sent; err == nil {
		_, err = a.VMs().SetVM(ctx, vm.ID, banger.Change{Repository: &record, Workspace: f.place()})
	}
	return err
}

// snapshot names the files as they are now; "" if that can't be said.
func (f *files) snapshot(ctx context.Context) string {
	if f.repo == nil {
		return ""
	}
	tree, _ := f.repo.Snapshot(ctx) // without it, all that is in the guest counts as work
	return tree
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

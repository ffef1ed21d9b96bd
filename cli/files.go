package cli

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"banger"
	"banger/guest"
	"banger/guest/tartree"
	"banger/guest/work"
	"banger/workspace/send"
)

// filesParent is the guest's directory that files are copied into.
const filesParent = "/root"

// askAbove is the size of a directory from which a person is asked before it is copied
// as it is.
const askAbove = 1 << 30

// settleAbove is from how many files on git looks at a copy when it is made, and not later.
const settleAbove = 2000

// files are what is copied into a new VM: a repository, or a directory as it is.
type files struct {
	parent string // the guest's directory that they go into
	name   string // of the directory they become
	dir    string // below that, where commands begin
	total  int64  // bytes, where that is known
	tar    func(ctx context.Context, w io.Writer) error
	repo   *send.Repo // nil: a directory as it is
	many   bool       // files, so that git takes long to look at all
}

// filesFlags say what is copied into a VM.
type filesFlags struct {
	send.Options
	depth      depth
	guestPath  string
	yes, quiet bool
}

// addFlags adds those that are about a repository.
func (f *filesFlags) addFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&f.IncludeUntracked, "include-untracked", false, "take untracked files too, but not ignored ones")
	fs.StringVar(&f.Branch, "branch", "", "the copy is on a new branch of this name")
	fs.StringVar(&f.From, "from", "", "with --branch: it begins at this commit, in place of the checkout and its changes")
	fs.Var(&f.depth, "depth", "how many commits of history go along: a number, or full")
	fs.BoolVar(&f.ReadOnly, "readonly", false, "nobody but the guest's root may write the files")
	fs.StringVar(&f.guestPath, "guest-path", "", "the VM's directory that it becomes (default: /root/NAME)")
}

// depth is a number of commits, or -1 for all.
type depth int

// Set implements pflag.Value.
func (d *depth) Set(text string) error {
	n, err := strconv.Atoi(text)
	switch {
	case text == "full":
		*d = -1
	case err != nil || n < 1:
		return fmt.Errorf("%q is no depth; it is 1, 2 and so on, or full", text)
	default:
		*d = depth(n)
	}
	return nil
}

// String implements pflag.Value.
func (d *depth) String() string {
	switch *d {
	case 0:
		return "1"
	case -1:
		return "full"
	}
	return strconv.Itoa(int(*d))
}

// Type implements pflag.Value.
func (d *depth) Type() string { return "commits" }

// set checks what goes together and returns what package send has to know.
func (f *filesFlags) set() (send.Options, error) {
	if f.From != "" && f.Branch == "" {
		return f.Options, banger.Errorf(banger.CodeInvalid, "--from says where a branch begins, and none is named").WithHint("add --branch NAME")
	}
	if f.From != "" && f.IncludeUntracked {
		return f.Options, banger.Errorf(banger.CodeInvalid, "--from and --include-untracked contradict each other: with --from nothing of the checkout's files goes")
	}
	if p := f.guestPath; p != "" && (!path.IsAbs(p) || path.Clean(p) == "/") {
		return f.Options, banger.Errorf(banger.CodeInvalid, "--guest-path %s isn't an absolute path of a directory", p)
	}
	f.Depth = int(f.depth)
	return f.Options, nil
}

// open finds what a path stands for, and tells a person what of it is copied. It is
// called before the VM is made.
func (f *filesFlags) open(ctx context.Context, a *App, dir string) (*files, error) {
	if _, err := os.Lstat(dir); os.IsNotExist(err) && !strings.ContainsAny(dir, "./") {
		return nil, notThere(ctx, a, dir)
	}
	options, err := f.set()
	if err != nil {
		return nil, err
	}
	repo, err := send.Open(ctx, dir)
	if send.NotRepository(err) {
		if options != (send.Options{IncludeUntracked: options.IncludeUntracked}) {
			return nil, banger.Errorf(banger.CodeInvalid, "%w: --branch, --from, --depth and --readonly are for repositories", err)
		}
		return f.asItIs(ctx, a, dir)
	}
	if err != nil {
		return nil, err
	}
	repo.Options = options
	found, err := repo.Files(ctx)
	if err != nil {
		return nil, err
	}
	if n := found.Untracked; n > 0 && !f.IncludeUntracked && !f.quiet {
		a.note("untracked files stay behind: %d (--include-untracked copies them)", n)
	}
	if n := len(found.Submodules); n > 0 && !f.quiet {
		a.note("submodules stay empty: %d", n)
	}
	if n := len(found.Ignored); n > 0 && !f.quiet {
		a.note("ignored files go along, as .worktreeinclude says: %d", n)
	}
	what := &files{parent: filesParent, name: repo.Name, dir: repo.Dir, tar: repo.Tar, repo: repo, many: len(found.Paths) > settleAbove}
	if f.guestPath != "" {
		what.parent, what.name = path.Split(path.Clean(f.guestPath))
		repo.Name = what.name
	}
	return what, nil
}

// notThere is the error of a word that is no path. Who types it may mean an image or a
// command.
func notThere(ctx context.Context, a *App, word string) error {
	err := banger.Errorf(banger.CodeInvalid, "there is no directory %q", word)
	if _, known := a.Images().Image(ctx, word); known == nil {
		return err.WithHint("`banger run --image %s` runs that image", word)
	}
	return err.WithHint("`banger run --image %[1]s` runs an image, `banger run -- %[1]s` a command", word)
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
	if f.many {
		_ = work.Settle(ctx, a.guest(vm), path.Join(f.parent, f.name)) // without it git looks later
	}
	return f.record(ctx, a, vm, <-sent)
}

// record writes down that the files are in the guest.
func (f *files) record(ctx context.Context, a *App, vm banger.VM, sent string) error {
	record, err := f.repo.Record(ctx, path.Join(f.parent, f.name))
	if record.Sent = sent; err == nil {
		_, err = a.VMs().SetVM(ctx, vm.ID, banger.Change{Repository: &record, Workspace: f.place()})
	}
	return err
}

// Goes is a file that would go into a VM.
type Goes struct {
	Path  guest.Bytes `json:"path"` // below the directory; .git stands for all of the history
	Bytes int64       `json:"bytes"`
}

// goes lists what would go, by making the tar and looking into it.
func (f *files) goes(ctx context.Context) (list []Goes, err error) {
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(f.tar(ctx, w)) }()
	defer r.Close()
	history := Goes{Path: guest.Bytes(".git")}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		_, name, _ := strings.Cut(h.Name, "/")
		switch {
		case strings.HasPrefix(name, ".git/"):
			history.Bytes += h.Size
		case h.Typeflag != tar.TypeDir:
			list = append(list, Goes{guest.Bytes(name), h.Size})
		}
	}
	if history.Bytes > 0 {
		list = append(list, history)
	}
	return list, nil
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

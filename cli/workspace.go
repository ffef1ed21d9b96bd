package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger"
	"banger/guest"
	guestwork "banger/guest/work"
	"banger/workspace/take"
)

func workspaceCommand(a *App) *cobra.Command {
	cmd := a.group("workspace", "Put a repository into a VM, and get the work in it back")
	cmd.Aliases = []string{"ws"}
	cmd.Long = `A repository that "banger run PATH" copied into a VM comes back as a patch, as a branch,
or merged into your checkout. Only "land" changes your checkout; the others change at most
refs of the repository: refs/banger/VM/head is the newest commit in the VM, and
refs/banger/VM/work the files as they are there, with what isn't committed on top.

What a VM sends is checked before it goes into your repository: it may come from anybody.`
	cmd.AddCommand(workspacePrepareCommand(a), workspaceStatusCommand(a), workspaceExportCommand(a), workspaceDiffCommand(a), workspaceLogCommand(a), workspaceLandCommand(a))
	return cmd
}

// Work is the work in a VM's copy of a repository.
type Work struct {
	VM         string          `json:"vm"`               // id
	Name       string          `json:"name"`             // the VM's
	Repository string          `json:"repository"`       // path of its work tree on this host
	Base       string          `json:"base,omitempty"`   // the commit that went into the VM; none before the first
	Head       string          `json:"head,omitempty"`   // the newest commit there
	Work       string          `json:"work,omitempty"`   // a commit of the files as they are there
	Ref        string          `json:"ref,omitempty"`    // that keeps it in the repository, if it was taken
	Branch     string          `json:"branch,omitempty"` // that was made or moved of it
	Output     string          `json:"output,omitempty"` // the file with the patch
	Landed     string          `json:"landed,omitempty"` // what the checkout's newest commit is now
	Commits    []take.Commit   `json:"commits"`
	Changes    []take.Change   `json:"changes"`
	Executes   []take.Executes `json:"executes,omitempty"` // what of it runs by itself once it is in a checkout
	Nested     []string        `json:"nested,omitempty"`   // repositories in the repository, which stay in the VM
	Others     []string        `json:"others,omitempty"`   // branches, and the stash, with commits that head hasn't, which stay in the VM
}

// workFlags are those of all commands that take work.
type workFlags struct {
	quiet bool
	most  size
}

func (f *workFlags) add(fs *pflag.FlagSet) {
	f.most = size{mib: int(take.Usual.Bytes >> 20), unit: 1}
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress, and tell nothing of what stays behind")
	fs.Var(&f.most, "max-size", "take no more than this from the VM: 500M, 20G")
}

// take takes a VM's work. The caller closes it.
func (f *workFlags) take(ctx context.Context, a *App, ref string) (banger.VM, *take.Work, error) {
	vm, err := a.VMs().VM(ctx, ref)
	if err != nil {
		return vm, nil, err
	}
	if vm.Repository == nil {
		return vm, nil, noRepository(vm)
	}
	show := a.progress(f.quiet)
	defer show.end()
	limits := take.Usual
	limits.Bytes = int64(f.most.mib) << 20
	work, err := take.Take(ctx, *vm.Repository, func(ctx context.Context, base string, w io.Writer) error {
		c := &counter{w: w, step: func(n int64) { show.event(banger.Event{VM: vm.ID, Stage: "work", Done: n}) }}
		return guestwork.Take(ctx, a.guest(vm), vm.Repository.Guest, base, c)
	}, limits)
	if err != nil {
		return vm, nil, workError(ctx, a, vm, err)
	}
	return vm, work, nil
}

// workError makes a banger.Error of what ended the taking of work.
func workError(ctx context.Context, a *App, vm banger.VM, err error) error {
	switch {
	case ctx.Err() != nil:
		return banger.Errorf(banger.CodeCanceled, "take the work of vm %s: %w", vm.Spec.Name, context.Cause(ctx))
	case banger.CodeOf(err) == banger.CodeNotRunning:
		return banger.Errorf(banger.CodeNotRunning, "vm %s doesn't run: its work is on its disk", vm.Spec.Name).WithHint("`banger vm start %s` starts it", vm.Spec.Name)
	case guest.CodeOf(err) == guest.CodeNotFound:
		return banger.Errorf(banger.CodeNotFound, "vm %s: %w", vm.Spec.Name, err).WithHint("the repository went there; if it was moved, copy it out: banger cp %s:PATH .", vm.Spec.Name)
	}
	if e, ok := a.execError(ctx, vm, err).(*banger.Error); ok {
		return e
	}
	return fmt.Errorf("vm %s: %w", vm.Spec.Name, err)
}

// look takes a VM's work, says what it is, and tells what stays behind. The caller closes it.
func (f *workFlags) look(ctx context.Context, a *App, ref string) (vm banger.VM, w *take.Work, out Work, err error) {
	if vm, w, err = f.take(ctx, a, ref); err != nil {
		return vm, nil, out, err
	}
	if out, err = describe(ctx, vm, w); err != nil {
		w.Close()
		return vm, nil, out, err
	}
	f.left(a, out)
	return vm, w, out, nil
}

// describe says what work is.
func describe(ctx context.Context, vm banger.VM, w *take.Work) (Work, error) {
	out := Work{VM: vm.ID, Name: vm.Spec.Name, Repository: vm.Repository.Path, Base: w.Base, Head: w.Head, Work: w.Tip, Nested: w.Nested, Others: w.Others}
	var err error
	if out.Commits, err = w.Commits(ctx); err != nil {
		return out, err
	}
	if out.Changes, err = w.Changes(ctx); err != nil {
		return out, err
	}
	out.Executes, err = w.Executes(ctx, out.Changes)
	return out, err
}

// left tells what of the work stays in the VM.
func (f *workFlags) left(a *App, w Work) {
	if f.quiet {
		return
	}
	for _, n := range w.Nested {
		a.note("%s is a repository of its own and stays in the VM", printable(n, 200))
	}
	for _, ref := range w.Others {
		a.note("%s has commits of its own and stays in the VM; check it out there to take it", printable(ref, 200))
	}
	if len(w.Changes) == 0 {
		a.note("vm %s has no work: its files are those of %s", w.Name, orDash(w.Base[:min(12, len(w.Base))]))
	}
}

// taken writes down that a VM's work is on this host now.
func taken(ctx context.Context, a *App, vm banger.VM, w *take.Work) error {
	r := *vm.Repository
	var err error
	r.Left = ""
	if r.TakenHead = w.Head; w.Tip != "" {
		r.Taken, err = w.Tree(ctx)
	}
	if err == nil && r != *vm.Repository {
		_, err = a.VMs().SetVM(ctx, vm.ID, banger.Change{Repository: &r})
	}
	return err
}

// workSummary is work in a few words.
func workSummary(w Work) string {
	var parts []string
	commits, loose := len(w.Commits), 0
	for _, c := range w.Commits {
		if c.Loose {
			commits, loose = commits-1, 1
		}
	}
	parts = append(parts, plural(commits, "commit"))
	if loose > 0 {
		parts = append(parts, "what isn't committed")
	}
	return strings.Join(parts, " and ") + ", " + plural(len(w.Changes), "file")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// clear writes text that may be a guest's: to a terminal without control characters, which
// could change what it shows; elsewhere as it is.
func clear(a *App) io.Writer {
	if _, tty := terminal(a.Out); !tty {
		return a.Out
	}
	return &cleaner{w: a.Out}
}

// cleaner replaces control characters.
type cleaner struct {
	w    io.Writer
	last byte // of what was written before
}

// Write implements io.Writer.
func (c *cleaner) Write(p []byte) (int, error) {
	q := make([]byte, len(p))
	for i, b := range p {
		control := c.last == 0xc2 && b >= 0x80 && b < 0xa0 // of two bytes, which may come one by one
		if c.last = b; b < ' ' && b != '\n' && b != '\t' || b == 0x7f || control {
			b = '?'
		}
		q[i] = b
	}
	return c.w.Write(q)
}

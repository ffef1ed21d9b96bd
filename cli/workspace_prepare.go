package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
	"banger/guest/work"
	"banger/workspace/send"
)

func workspacePrepareCommand(a *App) *cobra.Command {
	var f filesFlags
	var force bool
	cmd := answer(a, &cobra.Command{
		Use:   "prepare [flags] VM [PATH]",
		Short: "Put a repository into a running VM",
		Long: `Copies the repository that PATH is in (this directory, if none is named) into a VM, as
"banger run PATH" does: to /root/NAME, or where --guest-path says. Commands in the VM begin
there from then on.

What is in the way is replaced. If the VM has work of that repository that isn't on this
host, nothing happens; --force replaces it.

Again, only what differs goes: new commits, and files that aren't the same in the VM. For
that the VM needs git. What it ignores stays, and so do its git's settings. But files of
submodules, and those that .worktreeinclude names, go each time: they replace what is there,
even if it was changed in the VM.`,
		Example: `  banger workspace prepare web
  banger workspace prepare web ./repo --guest-path /srv/app`,
		Args:              nargs(1, 2),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) (banger.VM, error) {
		vm, err := a.VMs().VM(ctx, args[0])
		if err != nil {
			return vm, err
		}
		from := "."
		if len(args) > 1 {
			from = args[1]
		}
		return f.prepare(ctx, a, vm, from, force)
	}, func(_ *page, vm banger.VM) {
		if !f.quiet {
			a.note("%s is in vm %s at %s", vm.Repository.Path, vm.Spec.Name, vm.Repository.Guest)
		}
	})
	fs := cmd.Flags()
	fs.BoolVar(&force, "force", false, "replace work that isn't on this host")
	f.addFlags(fs)
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// prepare puts the repository that a path is in into a VM.
func (f *filesFlags) prepare(ctx context.Context, a *App, vm banger.VM, from string, force bool) (banger.VM, error) {
	what, err := f.open(ctx, a, from)
	if err != nil {
		return vm, err
	}
	if what.repo == nil {
		return vm, banger.Errorf(banger.CodeInvalid, "%s is in no repository", from).WithHint("`banger cp %s %s:PATH` copies directories", from, vm.Spec.Name)
	}
	dir := path.Join(what.parent, what.name)
	switch err := what.update(ctx, a, vm, dir, force, f.quiet); {
	case err == nil:
		return a.VMs().VM(ctx, vm.ID)
	case !errors.Is(err, send.ErrAnew):
		return vm, err
	}
	if err := keepsWork(ctx, a, vm, dir, force); err != nil {
		return vm, err
	}
	show := a.progress(f.quiet)
	defer show.end()
	if err := what.put(ctx, a, vm, show); err != nil {
		return vm, workError(ctx, a, vm, err)
	}
	if vm.Repository != nil && vm.Repository.Guest == dir { // what was deleted here is there still
		if err := what.tidy(ctx, a, vm, dir); err != nil {
			return vm, workError(ctx, a, vm, err)
		}
	}
	return a.VMs().VM(ctx, vm.ID)
}

// update brings a copy in the guest to what is here now, by what differs. send.ErrAnew if all
// of the repository has to go.
func (f *files) update(ctx context.Context, a *App, vm banger.VM, dir string, force, quiet bool) error {
	was := vm.Repository
	if was == nil || was.Guest != dir || was.Path != f.repo.Top || was.ReadOnly != f.repo.ReadOnly {
		return send.ErrAnew
	}
	next, err := f.repo.Record(ctx, dir)
	if err != nil || next.Format != was.Format {
		return cmp.Or(err, send.ErrAnew)
	}
	look := sync.OnceValue(func() (err error) {
		next.Sent, err = f.repo.Snapshot(ctx)
		return err
	})
	go func() { _ = look() }() // while the guest looks, too
	show := a.progress(quiet)
	defer show.end()
	var ours error // what failed, or was refused, on this side
	done := work.Synced{}
	err = work.Sync(ctx, a.guest(vm), dir, func(in *bufio.Reader, out io.WriteCloser) error {
		there, err := send.ReadCopy(in)
		if err := errors.Join(err, look()); err != nil {
			return err
		}
		if !there.Git {
			return send.ErrAnew
		}
		loose := was.Loose(there.Head.Head, there.Work, there.Tree, len(there.Others))
		if loose != "" && !force && next.Loose(there.Head.Head, there.Work, there.Tree, len(there.Others)) != "" { // next: an earlier update wasn't written down
			ours = hasWork(vm, dir, loose)
			return ours
		}
		c := &counter{w: out, step: func(n int64) { show.event(banger.Event{VM: vm.ID, Stage: "workspace", Done: n}) }}
		if err := f.repo.Update(ctx, there, []string{was.Base, was.TakenHead, next.Base}, c); err != nil {
			if !errors.Is(err, send.ErrAnew) {
				ours = err
			}
			return err
		}
		_ = out.Close() // no more comes
		return work.ReadLine(in, &done)
	})
	lerr := look()
	switch {
	case ctx.Err() != nil:
		return workError(ctx, a, vm, err)
	case ours != nil:
		return ours
	case len(done.Changed) > 0:
		return banger.Errorf(banger.CodeConflict, "vm %s: %q changed there just now", vm.Spec.Name, done.Changed).WithHint("do this again")
	case err != nil || lerr != nil || !done.Done: // an older agent, or objects that it lacks: all of it goes
		return send.ErrAnew
	}
	return f.record(ctx, a, vm, next.Sent)
}

// hasWork is the error of a copy whose work would be lost.
func hasWork(vm banger.VM, dir, loose string) *banger.Error {
	return banger.Errorf(banger.CodeConflict, "vm %s has work in %s that isn't on this host: %s", vm.Spec.Name, dir, loose).
		WithHint("`banger workspace export %s` takes it, --force replaces it", vm.Spec.Name)
}

// tidy removes files of an earlier copy that aren't in the repository any more. What git
// ignores stays.
func (f *files) tidy(ctx context.Context, a *App, vm banger.VM, dir string) error {
	there, err := f.repo.There(ctx)
	if err != nil {
		return err
	}
	return work.Tidy(ctx, a.guest(vm), dir, strings.NewReader(there))
}

// keepsWork returns an error of CodeConflict if a directory of a VM has work that isn't on
// this host.
func keepsWork(ctx context.Context, a *App, vm banger.VM, dir string, force bool) error {
	if force {
		return nil
	}
	loose, known, err := looseWork(ctx, a, vm, dir)
	if guest.CodeOf(err) == guest.CodeNotFound && isGuests(err) {
		return nil // nothing is there
	}
	if err != nil {
		return workError(ctx, a, vm, err)
	}
	if !known {
		loose = "without git in the VM, nobody knows what"
	}
	if loose == "" {
		return nil
	}
	return hasWork(vm, dir, loose)
}

func isGuests(err error) bool {
	_, ok := errors.AsType[*guest.Error](err)
	return ok
}

package cli

import (
	"context"
	"errors"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
	"banger/guest/work"
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
host, nothing happens; --force replaces it.`,
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
	return banger.Errorf(banger.CodeConflict, "vm %s has work in %s that isn't on this host: %s", vm.Spec.Name, dir, loose).
		WithHint("`banger workspace export %s` takes it, --force replaces it", vm.Spec.Name)
}

func isGuests(err error) bool {
	_, ok := errors.AsType[*guest.Error](err)
	return ok
}

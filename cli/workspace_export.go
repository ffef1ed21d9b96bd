package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"banger"
	"banger/workspace/take"
)

func workspaceExportCommand(a *App) *cobra.Command {
	var f workFlags
	var output, branch string
	cmd := answer(a, &cobra.Command{
		Use:   "export [flags] VM",
		Short: "Write a VM's work as a patch, or make it a branch",
		Long: `Writes one patch of all work in the VM's copy of the repository since it went in:
committed, staged, changed and new files, but not ignored ones. "git apply" takes it. With
--branch it becomes a branch of the repository on this host instead, with the VM's own
commits; what isn't committed there is one more commit on top. The VM's files and index
don't change, nor does your checkout.

The work is also kept in the repository, as refs/banger/VM/work. A branch that is there is
only moved forward, and not if it is checked out. What had changed on this host before the
repository went in is part of the work.`,
		Example: `  banger workspace export web | git apply
  banger workspace export web -o fix.patch
  banger workspace export web --branch fix && git log fix`,
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) (Work, error) {
		vm, work, out, err := f.look(ctx, a, args[0])
		if err != nil {
			return Work{}, err
		}
		defer work.Close()
		if work.Tip != "" {
			err = work.Keep(ctx, vm.Spec.Name, branch)
			if err != nil && branch == "" {
				a.note("the work isn't kept in %s: %s", vm.Repository.Path, printable(err.Error(), 300))
				err = nil
			} else if _, out.Ref = take.Refs(vm.Spec.Name); err == nil {
				out.Branch = branch
				err = taken(ctx, a, vm, work)
			}
		}
		if err != nil {
			return Work{}, err
		}
		if out.Output = output; output == "" && (branch != "" || a.json) {
			return out, nil
		}
		return out, patch(ctx, a, work, output)
	}, func(w *page, out Work) {
		if out.Branch != "" && !f.quiet {
			a.note("%s of %s: %s", out.Branch, out.Repository, workSummary(out))
			tellExecutes(a, out.Executes)
		}
	})
	f.add(cmd.Flags())
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the patch to this file")
	cmd.Flags().StringVar(&branch, "branch", "", "make a branch of this name on this host, and write no patch")
	return cmd
}

// patch writes work to a file, which is there whole or not at all, or to standard output.
func patch(ctx context.Context, a *App, work *take.Work, file string) error {
	if file == "" || file == "-" {
		return work.Patch(ctx, clear(a))
	}
	var failed error
	err := whole(file, func(w io.Writer) error {
		failed = work.Patch(ctx, w)
		return failed
	})
	if err != nil && (failed == nil || banger.CodeOf(err) == banger.CodeInternal) {
		return banger.Errorf(banger.CodeInvalid, "write the patch: %w", err)
	}
	return err
}

// tellExecutes lists what runs by itself.
func tellExecutes(a *App, list []take.Executes) {
	if len(list) == 0 {
		return
	}
	a.note("of it, this runs by itself once it is in a checkout or pushed:")
	for _, e := range list {
		a.note("  %s: %s", printable(string(e.Path), 200), e.Why)
	}
}

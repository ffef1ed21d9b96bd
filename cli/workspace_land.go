package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/workspace/take"
)

func workspaceLandCommand(a *App) *cobra.Command {
	var f workFlags
	var yes bool
	cmd := answer(a, &cobra.Command{
		Use:   "land [flags] VM",
		Short: "Merge a VM's work into your checkout",
		Long: `Brings the work in the VM's copy of the repository into your checkout, on the branch
that is checked out: forward if you have no commits of your own since, else by a merge.
The checkout must be clean. What doesn't go together with your commits is shown as git
shows it, and nothing changes. Hooks of the repository don't run.

What of it runs by itself from then on is listed before: hooks, CI, tasks of editors, new
programs. You are asked then; --yes lands without asking.`,
		Example: `  banger workspace land fix
  banger workspace land --yes fix`,
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) (Work, error) {
		vm, work, out, err := f.look(ctx, a, args[0])
		if err != nil {
			return out, err
		}
		defer work.Close()
		if work.Tip == "" || work.Tip == work.Base {
			return out, nil
		}
		l, err := work.Landing(ctx, vm.Spec.Name)
		if err != nil {
			return out, landError(a, vm, err)
		}
		out.Landed = l.Commit
		if l.Nothing() {
			return out, nil
		}
		out.Executes, out.Changes = l.Executes, l.Changes
		if !yes && len(l.Executes) > 0 {
			tellExecutes(a, l.Executes)
			if err := a.confirm("--yes", "land it in %s", vm.Repository.Path); err != nil {
				return out, err
			}
		}
		_, out.Ref = take.Refs(vm.Spec.Name)
		if err := l.Do(ctx); err != nil {
			return out, err
		}
		return out, taken(ctx, a, vm, work)
	}, func(w *page, out Work) {
		if out.Landed != "" && !f.quiet {
			a.note("%s is at %.12s: %s", out.Repository, out.Landed, workSummary(out))
		}
	})
	f.add(cmd.Flags())
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return cmd
}

// landError shows a conflict as git does.
func landError(a *App, vm banger.VM, err error) error {
	c, ok := errors.AsType[*take.Conflict](err)
	if !ok {
		return err
	}
	if !a.json {
		for line := range strings.Lines(c.Said) {
			if line = printable(strings.TrimSuffix(line, "\n"), 400); line != "" {
				_, _ = fmt.Fprintln(a.Err, line)
			}
		}
	}
	return banger.Errorf(banger.CodeConflict, "%s: %w; nothing was changed", vm.Repository.Path, err).
		WithHint("`banger workspace export %[1]s --branch %[1]s-work`, then `git merge %[1]s-work` merges it by hand", vm.Spec.Name)
}

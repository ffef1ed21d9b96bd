package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

// Removed is something that was deleted, or with --dry-run would be.
type Removed struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"` // where it has one
}

// removals prints what was deleted.
func removals(w *page, list []Removed) {
	for _, r := range list {
		if r.Name == "" {
			r.Name = r.ID
		}
		_, _ = fmt.Fprintln(w, r.Name)
	}
}

// confirm asks a person whether to go on. Without a terminal it returns an error.
func (a *App) confirm(flag, format string, args ...any) error {
	if _, tty := terminal(a.In); !tty {
		return banger.Errorf(banger.CodeInvalid, "this would "+format, args...).WithHint("there is no terminal to ask on: %s does it without asking", flag)
	}
	return ask(a, false, format, args...)
}

// ask asks a person whether to go on. usual is what an empty line means.
func ask(a *App, usual bool, format string, args ...any) error {
	choices := "[y/N]"
	if usual {
		choices = "[Y/n]"
	}
	tell(a, format+"? "+choices+" ", args...)
	answer, _ := bufio.NewReader(a.In).ReadString('\n')
	if usual && answer == "\n" {
		return nil
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return banger.Errorf(banger.CodeCanceled, "nothing was done")
	}
	return nil
}

// pruneFlags are the flags that all prune commands have.
type pruneFlags struct{ force, dryRun bool }

func (p *pruneFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&p.force, "force", "f", false, "don't ask")
	cmd.Flags().BoolVar(&p.dryRun, "dry-run", false, "only say what would be deleted")
}

// wants reports whether to go on. It asks unless --force or --dry-run is given.
func (p *pruneFlags) wants(a *App, n int, format string, args ...any) (bool, error) {
	if n == 0 || p.dryRun {
		return false, nil
	}
	if p.force {
		return true, nil
	}
	err := a.confirm("--force", format, args...)
	return err == nil, err
}

// deletes makes cmd one that deletes what is named. find knows more of a thing than how
// it was named.
func deletes(a *App, cmd *cobra.Command, find func(ctx context.Context, ref string) (Removed, error), remove func(ctx context.Context, ref string) error) *cobra.Command {
	cmd.Args = nargs(1, -1)
	return answers(a, cmd, func(ctx context.Context, refs []string) ([]Removed, error) {
		return inTurn(refs, func(ref string) (Removed, error) {
			it, err := find(ctx, ref)
			if err != nil {
				return it, err
			}
			return it, remove(ctx, ref)
		})
	}, removals)
}

// prunes makes cmd one that deletes what nobody needs, after asking. find tells what
// that is, and what a person is asked.
func prunes(a *App, cmd *cobra.Command, find func(ctx context.Context) (spare []Removed, question string, err error), remove func(ctx context.Context, spare []Removed) ([]Removed, error)) *cobra.Command {
	var p pruneFlags
	p.add(cmd)
	cmd.Args = nargs(0, 0)
	return answers(a, cmd, func(ctx context.Context, _ []string) ([]Removed, error) {
		spare, question, err := find(ctx)
		if err != nil || p.dryRun {
			return spare, err
		}
		if yes, err := p.wants(a, len(spare), "%s", question); !yes {
			return nil, err
		}
		return remove(ctx, spare)
	}, removals)
}

// inTurn does something with each of a list and returns what it was done to; one that
// fails doesn't keep the others from it.
func inTurn[K, T any](list []K, do func(K) (T, error)) ([]T, error) {
	var done []T
	var errs []error
	for _, k := range list {
		v, err := do(k)
		if errs = append(errs, err); err == nil {
			done = append(done, v)
		}
	}
	return done, together(errs...)
}

// inUse returns the things that VMs use: of says which one a VM uses.
func inUse(ctx context.Context, a *App, of func(banger.VM) string) (map[string]bool, error) {
	vms, err := a.VMs().VMs(ctx)
	used := map[string]bool{}
	for _, vm := range vms {
		used[of(vm)] = true
	}
	return used, err
}

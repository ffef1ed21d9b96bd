package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/workspace/git"
	"banger/workspace/send"
)

// WorkStatus says what changed of a repository on both sides since it went into a VM.
type WorkStatus struct {
	VM         string            `json:"vm"` // id
	Name       string            `json:"name"`
	Repository banger.Repository `json:"repository"`
	Head       string            `json:"head,omitempty"`    // this host's newest commit now
	Moved      bool              `json:"moved"`             // it isn't the one that went in
	Changed    bool              `json:"changed"`           // this host's files aren't those that went in
	Work       string            `json:"work,omitempty"`    // what the VM has that is nowhere else
	Unknown    string            `json:"unknown,omitempty"` // why nobody knows
}

func workspaceStatusCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use:   "status VM",
		Short: "Show what changed since a repository went into a VM",
		Long: `Says which commit went into the VM, whether the repository on this host has changed since,
and whether the VM has work that is nowhere else.`,
		Example:           "  banger workspace status web",
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) (s WorkStatus, err error) {
		vm, err := a.VMs().VM(ctx, args[0])
		if err != nil {
			return s, err
		}
		if vm.Repository == nil {
			return s, noRepository(vm)
		}
		s = WorkStatus{VM: vm.ID, Name: vm.Spec.Name, Repository: *vm.Repository}
		repo, err := send.Open(ctx, s.Repository.Path)
		if err != nil {
			return s, err
		}
		repo.IncludeUntracked = s.Repository.Untracked
		now, err := repo.Record(ctx, s.Repository.Guest)
		if err != nil {
			return s, err
		}
		s.Head, s.Moved = now.Base, now.Base != s.Repository.Base
		tree, err := repo.Snapshot(ctx)
		if err != nil {
			return s, err
		}
		s.Changed = tree != s.Repository.Sent
		if vm.State != banger.Running {
			s.Work, s.Unknown = vm.Repository.Left, "it doesn't run; so it was when it stopped"
			if vm.Repository.Unseen {
				s.Unknown = "it ended without being asked; so it was when it was stopped before"
			}
			return s, nil
		}
		var known bool
		if s.Work, known, err = looseWork(ctx, a, vm, s.Repository.Guest); err != nil {
			return s, workError(ctx, a, vm, err)
		}
		if !known {
			s.Unknown = "there is no git in it"
		}
		return s, nil
	}, func(w *page, s WorkStatus) {
		short := func(id string) string { return orDash(id[:min(12, len(id))]) }
		rows := [][]string{
			{"repository", s.Repository.Path},
			{"in the vm", s.Repository.Guest},
			{"went in", short(s.Repository.Base) + " " + strings.TrimPrefix(s.Repository.Branch, "refs/heads/")},
		}
		here := "as it went in"
		switch {
		case s.Moved:
			here = "moved on to " + short(s.Head)
		case s.Changed:
			here = "its files have changed"
		}
		there := s.Work
		if there == "" {
			there = "no work"
		}
		if s.Unknown != "" && s.Work == "" {
			there = "not known: " + s.Unknown
		} else if s.Unknown != "" {
			there += " (" + s.Unknown + ")"
		}
		w.fields(append(rows, []string{"here", here}, []string{"there", there}))
	})
}

// noRepository is the error of a VM that banger put no repository into.
func noRepository(vm banger.VM) error {
	return banger.Errorf(banger.CodeInvalid, "vm %s has no repository that banger put there", vm.Spec.Name).
		WithHint("`banger workspace prepare %[1]s PATH` puts one there; `banger cp %[1]s:PATH .` copies files out", vm.Spec.Name)
}

// movedOn says whether a VM's repository has another newest commit on this host than when
// it went in, as a note for a person; "" if not, or if that can't be said.
func movedOn(ctx context.Context, vm banger.VM) string {
	if vm.Repository == nil {
		return ""
	}
	repo, err := git.Open(ctx, vm.Repository.Path)
	if err != nil {
		return ""
	}
	h, err := repo.Head(ctx)
	if err != nil || h.Commit == vm.Repository.Base {
		return ""
	}
	return vm.Repository.Path + " has moved on since it went into vm " + vm.Spec.Name + ": `banger exec --sync` brings it over, `banger workspace status` says more"
}

package cli

import (
	"context"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/workspace"
)

type runOptions struct {
	specFlags
	commandFlags
	remove, detach, untracked, quiet bool
	wait                             waitFlag
}

func runCommand(a *App) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] [PATH] [-- COMMAND...]",
		Short: "Make a VM and run a command or a shell in it",
		Long: `Makes a VM, puts the git repository that PATH is in at /root/NAME (tracked files
as they are in the working tree), and runs COMMAND there, or a shell. Without
PATH the VM is empty. The VM stays until it is deleted, or with --rm as long as
this command.

Standard input, output and signals are the command's own. The first Ctrl-C
interrupts the command; three within two seconds stop waiting for it.
` + statuses,
		Example: `  banger vm run
  banger vm run ./repo -- make test
  banger vm run --rm --memory 2G ./repo -- go test ./...
  banger vm run -d --name web ./site -- python3 -m http.server
  tar c . | banger vm run --rm -- tar tv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			if dash < 0 {
				dash = len(args)
			}
			if dash > 1 {
				return banger.Errorf(banger.CodeInvalid, "%q: one path is enough", args[1]).
					WithHint("the command goes after --: banger vm run %s -- %s", args[0], args[1])
			}
			if o.remove && o.detach {
				return banger.Errorf(banger.CodeInvalid, "--rm and -d contradict each other: a VM with --rm lives as long as this command")
			}
			dir := ""
			if dash == 1 {
				dir = args[0]
			}
			return o.run(cmd.Context(), a, dir, args[dash:])
		},
	}
	o.specFlags.addFlags(a, cmd)
	o.commandFlags.addFlags(cmd)
	fs := cmd.Flags()
	fs.BoolVar(&o.remove, "rm", false, "delete the VM when the command ends")
	fs.BoolVarP(&o.detach, "detach", "d", false, "leave the command running in the VM and print the VM's name")
	o.wait.add(cmd)
	fs.BoolVar(&o.untracked, "include-untracked", false, "take untracked files too, but not ignored ones")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func (o *runOptions) run(ctx context.Context, a *App, dir string, argv []string) error {
	spec, err := o.specFlags.spec()
	if err != nil {
		return err
	}
	spec.Remove = o.remove
	making, stop := interruptible(ctx)
	defer stop()
	var repo *workspace.Repo
	if dir != "" {
		if repo, err = a.openRepo(making, dir, o.untracked, o.quiet); err != nil {
			return err
		}
		spec.Workspace = path.Join(repoParent, repo.Name, repo.Dir)
	}
	show := a.progress(o.quiet)
	defer show.end()
	vm, err := a.VMs.CreateVM(making, spec, true, show.event)
	if err != nil {
		return err
	}
	if o.remove {
		release := a.hold(ctx, vm)
		defer release()
	}
	if repo != nil {
		if err := a.putRepo(making, vm, repo, show); err != nil {
			// Without its files the VM isn't what was asked for.
			return a.drop(ctx, vm, fmt.Errorf("copy %s to vm %s: %w", repo.Name, vm.Spec.Name, err))
		}
	}
	if err := o.wait.wait(making, a, vm, show.event); err != nil {
		if o.remove || banger.CodeOf(err) == banger.CodeCanceled {
			return a.drop(ctx, vm, err)
		}
		return err // its console says more
	}
	show.end()
	if o.detach {
		return o.leave(making, a, vm, argv)
	}
	// From here on signals are the command's: ctx, not making.
	if making.Err() != nil {
		err = banger.Errorf(banger.CodeCanceled, "interrupted before the command began")
	} else {
		err = a.interact(ctx, vm, o.commandFlags, argv)
	}
	if o.remove {
		return a.drop(ctx, vm, err)
	}
	if len(argv) == 0 || banger.CodeOf(err) == banger.CodeCanceled {
		a.farewell(vm)
	}
	return err
}

// hold keeps a --rm VM ours until release is called.
func (a *App) hold(ctx context.Context, vm banger.VM) (release func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.Leases.HoldVM(ctx, vm.ID) // without it the daemon deletes the VM, and the command says so
	}()
	return func() { cancel(); <-done }
}

// drop deletes the VM and returns why, or why it could not.
func (a *App) drop(ctx context.Context, vm banger.VM, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err := a.VMs.DeleteVM(ctx, vm.ID)
	if err == nil || banger.CodeOf(err) == banger.CodeNotFound {
		return why
	}
	err = fmt.Errorf("delete vm %s: %w", vm.Spec.Name, err)
	if why != nil {
		a.printError(err)
		return why
	}
	return err
}

// leave starts a command that nobody follows.
func (o *runOptions) leave(ctx context.Context, a *App, vm banger.VM, argv []string) error {
	if len(argv) > 0 {
		s := o.commandFlags.spec(vm, argv)
		s.Detach, s.Stdin = true, false
		if err := a.guest(vm).Start(ctx, s); err != nil {
			return a.drop(ctx, vm, a.execError(ctx, vm, err))
		}
	}
	return a.print(vm, func(w io.Writer) { _, _ = fmt.Fprintln(w, vm.Spec.Name) })
}

// farewell tells how to come back to a VM that stays.
func (a *App) farewell(vm banger.VM) {
	_, _ = fmt.Fprintf(a.Err, "banger: vm %[1]s stays: `banger vm exec %[1]s` to come back, `banger vm delete %[1]s` to be rid of it\n", vm.Spec.Name)
}

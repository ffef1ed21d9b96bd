package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func vmExecCommand(a *App) *cobra.Command {
	var f commandFlags
	var detach, sync bool
	var cmd *cobra.Command
	cmd = gives(a, &cobra.Command{
		Use:        "exec [flags] VM [COMMAND...]",
		Aliases:    []string{"shell"},
		SuggestFor: []string{"enter", "console"},
		Short:      "Run a command or a shell in a running VM",
		Long: `Runs COMMAND, or a login shell, in a VM. It begins in the VM's repository, else in
the user's home. Standard input and signals go to the command; its output and status
come back. It goes on without a gap when the daemon is restarted meanwhile.

With -d COMMAND runs on by itself, and its id is printed. "banger logs VM ID" prints
its output, "banger attach VM ID" follows it to its end, "banger command list" lists
all there are.
` + statuses,
		Example: `  banger vm exec web
  banger vm exec web -- systemctl status
  head -c 100M /dev/zero | banger vm exec web -- wc -c
  banger vm exec -e CI=1 -w /srv web -- make
  banger vm exec -d web -- make all`,
		Args:              nargs(1, -1),
		ValidArgsFunction: a.completeVMs(1),
	}, nil, func(ctx context.Context, args []string, say func(...Ran) error) error {
		argv, err := commandAfter(cmd, args[1:])
		if err == nil {
			err = f.check(a, argv)
		}
		if err == nil && detach {
			if err = f.unfollowed(); len(argv) == 0 && err == nil {
				err = banger.Errorf(banger.CodeInvalid, "-d needs a command: nobody can type into a shell in the background")
			}
		}
		if err != nil {
			return err
		}
		look, stop := interruptible(ctx)
		vm, err := a.VMs().VM(look, args[0])
		stop()
		if err != nil {
			return hintVerb(err, args)
		}
		told, err := beforeExec(ctx, a, vm, sync)
		if err != nil {
			return err
		}
		defer told()
		var ran Ran
		if detach {
			ran, err = f.leave(ctx, a, vm, argv)
		} else {
			ran, err = a.interact(ctx, vm, f, argv)
		}
		if ran.Exit != nil || detach && err == nil {
			return firstError(say(ran), err)
		}
		if e, ok := errors.AsType[*banger.Error](err); ok && e.Code == banger.CodeNotRunning && e.Hint == "" {
			return e.WithHint("`banger vm start %s` starts it", vm.Spec.Name)
		}
		return err
	}, func(w *page, list []Ran) {
		for _, ran := range list {
			if detach && ran.Exit == nil {
				_, _ = fmt.Fprintln(w, shortID(ran.ID))
			}
		}
	})
	f.addFlags(cmd)
	cmd.Flags().BoolVar(&sync, "sync", false, "first copy the VM's repository again, as it is on this host now")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "leave the command running in the VM, and print its id")
	return cmd
}

// beforeExec brings a VM's repository over, if that is asked for. Else told says to a
// person, after the command, that this host has moved on.
func beforeExec(ctx context.Context, a *App, vm banger.VM, sync bool) (told func(), err error) {
	told = func() {}
	if sync {
		return told, syncRepository(ctx, a, vm)
	}
	if _, tty := terminal(a.Err); tty && vm.Repository != nil {
		news := make(chan string, 1) // looked up meanwhile, so that the command begins at once
		go func() { news <- movedOn(ctx, vm) }()
		told = func() {
			if said := <-news; said != "" {
				a.note("%s", said)
			}
		}
	}
	return told, nil
}

// syncRepository puts a VM's repository there anew, as it went in before.
func syncRepository(ctx context.Context, a *App, vm banger.VM) error {
	if vm.Repository == nil {
		return noRepository(vm)
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	r := vm.Repository
	f := filesFlags{guestPath: r.Guest, quiet: true, depth: depth(r.Depth)}
	f.IncludeUntracked, f.ReadOnly = r.Untracked, r.ReadOnly
	from := filepath.Join(r.Path, strings.TrimPrefix(vm.Spec.Workspace, r.Guest)) // where commands begin stays the same
	if info, err := os.Stat(from); err != nil || !info.IsDir() {
		from = r.Path
	}
	_, err := f.prepare(ctx, a, vm, from, false)
	return err
}

// hintVerb adds to the error of a VM that isn't there what was meant by a name that is a
// verb. A VM may have that name, so it isn't tried first.
func hintVerb(err error, args []string) error {
	vm := "VM"
	if len(args) > 1 {
		vm = args[1]
	}
	e, ok := errors.AsType[*banger.Error](err)
	switch verb := args[0]; {
	case !ok || e.Code != banger.CodeNotFound:
	case verb == "list" || verb == "ls":
		return e.WithHint("`banger command list %s` lists the commands of a VM", vm)
	case verb == "kill":
		return e.WithHint("`banger command kill %s ID` sends a signal to a command", vm)
	}
	return err
}

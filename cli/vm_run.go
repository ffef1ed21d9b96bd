package cli

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

type runOptions struct {
	specFlags
	commandFlags
	filesFlags
	remove, detach bool
	dryRun         bool
	entrypoint     entrypoint
	wait           waitFlag
}

func vmRunCommand(a *App) *cobra.Command {
	var o runOptions
	var cmd *cobra.Command
	cmd = gives(a, &cobra.Command{
		Use:   "run [flags] [PATH] [COMMAND...]",
		Short: "Make a VM and run a command or a shell in it",
		Long: `Makes a VM, copies the git repository that PATH is in to /root/NAME (tracked files
as they are in the working tree), and runs COMMAND there, or a shell. A directory that
isn't in a repository is copied as it is. Without PATH no files are copied, and
COMMAND goes after --. The VM stays until you delete it; with --rm it is deleted when
this command ends. With -d COMMAND runs on by itself, and its output is kept:
"banger logs VM" prints it, "banger attach VM" follows it to its end.

Kernel and image that aren't on this host yet are fetched and made first, after you are
asked: the first VM of a host takes some minutes.

A VM of an OCI image runs what docker would run: the image's entrypoint with COMMAND,
or without one the image's own, as its user, in its directory, with its environment.

Standard input and signals go to the command; its output and status come back. The
first Ctrl-C interrupts the command; three within two seconds stop waiting for it.
` + statuses,
		Example: `  banger vm run
  banger vm run ./repo -- make test
  banger vm run --rm --memory 2G ./repo -- go test ./...
  banger vm run -d --name web -p 8080:8000 ./site -- python3 -m http.server
  banger vm run --rm --image alpine -- cat /etc/os-release
  banger vm run -d --name web --image nginx
  tar c . | banger vm run --rm -- tar tv`,
	}, nil, func(ctx context.Context, args []string, say func(...Ran) error) error {
		dir, argv := "", args
		if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
			var err error
			if argv, err = commandAfter(cmd, args[1:]); err != nil {
				return err
			}
			dir = args[0]
		}
		if err := o.check(a, argv); err != nil {
			return err
		}
		if o.remove && o.detach {
			return banger.Errorf(banger.CodeInvalid, "--rm and -d contradict each other: with --rm the VM is deleted when this command ends")
		}
		if o.detach {
			if err := o.unfollowed(); err != nil {
				return err
			}
		}
		ran, err := o.run(ctx, a, cmd, dir, argv)
		if o.dryRun && err == nil {
			return say(ran)
		}
		if ran.Exit != nil || ran.VM != "" && !o.remove { // a VM that stays is told, whatever became of the command
			return firstError(say(ran), err)
		}
		return err
	}, func(w *page, list []Ran) {
		switch {
		case o.dryRun:
			showGoes(w, list[0].Goes)
		case o.detach:
			_, _ = fmt.Fprintln(w, list[0].Name)
		}
	})
	o.specFlags.addFlags(a, cmd)
	o.commandFlags.addFlags(cmd)
	fs := cmd.Flags()
	fs.Var(&o.entrypoint, "entrypoint", `run COMMAND by this program in place of the image's entrypoint; "" for none`)
	fs.BoolVar(&o.remove, "rm", false, "delete the VM when the command ends")
	fs.BoolVarP(&o.detach, "detach", "d", false, "leave the command running in the VM, and print the VM's name")
	o.wait.add(cmd)
	o.filesFlags.addFlags(fs)
	fs.BoolVar(&o.dryRun, "dry-run", false, "list the files that would go into the VM, and how large they are; make none")
	fs.BoolVarP(&o.yes, "yes", "y", false, "don't ask: fetch and make the kernel and the image that aren't here yet, copy a large directory")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress, and don't tell of a VM that stays")
	return cmd
}

func (o *runOptions) run(ctx context.Context, a *App, cmd *cobra.Command, dir string, argv []string) (Ran, error) {
	spec, err := o.specFlags.spec(a)
	if err != nil {
		return Ran{}, err
	}
	spec.Remove = o.remove
	making, stop := interruptible(ctx)
	defer stop()
	var what *files
	if dir != "" {
		if what, err = o.open(making, a, dir); err != nil {
			return Ran{}, err
		}
		spec.Workspace = what.place()
	}
	if o.dryRun {
		return o.look(making, what)
	}
	show := a.progress(o.quiet)
	defer show.end()
	if err := o.pull.provide(making, a, cmd, spec, o.yes, show); err != nil {
		return Ran{}, err
	}
	vm, err := a.VMs().CreateVM(making, spec, true, show.event)
	if err != nil {
		return Ran{}, err
	}
	tellPorts(a, vm, spec.Ports)
	if o.remove {
		release := a.hold(ctx, vm)
		defer release()
	}
	if what != nil {
		if err := what.put(making, a, vm, show); err != nil {
			// A VM without the repository isn't what was asked for.
			return Ran{}, a.drop(ctx, vm, fmt.Errorf("copy %s to vm %s: %w", what.name, vm.Spec.Name, err))
		}
	}
	if err := o.wait.wait(making, a, vm, show.event); err != nil {
		if o.remove || banger.CodeOf(err) == banger.CodeCanceled {
			return Ran{}, a.drop(ctx, vm, err)
		}
		return Ran{VM: vm.ID, Name: vm.Spec.Name}, err // its console says more
	}
	show.end()
	argv = o.entrypoint.command(vm.Config, argv)
	if o.detach {
		return o.leave(making, a, vm, argv)
	}
	// From here on signals go to the command, so this uses ctx, not making.
	ran := Ran{VM: vm.ID, Name: vm.Spec.Name}
	if making.Err() != nil {
		err = banger.Errorf(banger.CodeCanceled, "interrupted before the command began")
	} else {
		ran, err = a.interact(ctx, vm, o.commandFlags, argv)
	}
	if o.remove {
		return ran, a.drop(ctx, vm, err)
	}
	if !o.quiet {
		a.farewell(vm)
	}
	return ran, err
}

// look lists what would go into the VM.
func (o *runOptions) look(ctx context.Context, what *files) (ran Ran, err error) {
	if what == nil {
		return ran, banger.Errorf(banger.CodeInvalid, "--dry-run says what of PATH would go into the VM, and no PATH is named").WithHint("banger run --dry-run .")
	}
	ran.Goes, err = what.goes(ctx)
	return ran, err
}

// showGoes lists files and their sum.
func showGoes(w io.Writer, list []Goes) {
	var sum int64
	for _, g := range list {
		sum += g.Bytes
		_, _ = fmt.Fprintf(w, "%10s  %s\n", formatBytes(g.Bytes), printable(string(g.Path), 400))
	}
	_, _ = fmt.Fprintf(w, "%10s  %s\n", formatBytes(sum), "in all")
}

// hold keeps a lease on a --rm VM until release is called.
func (a *App) hold(ctx context.Context, vm banger.VM) (release func()) {
	ctx, cancel := context.WithCancel(ctx)
	held, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = a.VMs().HoldVM(ctx, vm.ID, sync.OnceFunc(func() { close(held) })) // without a lease the daemon deletes the VM, and then the command reports that
	}()
	select {
	case <-held:
	case <-done:
	}
	return func() { cancel(); <-done }
}

// drop deletes the VM. It returns why, or if that is nil, the error of deleting it.
func (a *App) drop(ctx context.Context, vm banger.VM, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err := a.VMs().DeleteVM(ctx, vm.ID)
	if err == nil || banger.CodeOf(err) == banger.CodeNotFound {
		return why
	}
	return together(why, fmt.Errorf("delete vm %s: %w", vm.Spec.Name, err))
}

// leave starts the command, if there is one, and tells of it.
func (o *runOptions) leave(ctx context.Context, a *App, vm banger.VM, argv []string) (Ran, error) {
	if len(argv) == 0 {
		return Ran{VM: vm.ID, Name: vm.Spec.Name}, nil
	}
	ran, err := o.commandFlags.leave(ctx, a, vm, argv)
	if err != nil {
		return Ran{}, a.drop(ctx, vm, err)
	}
	if !o.quiet {
		a.note("command %[2]s runs in vm %[1]s: `banger logs %[1]s` shows its output, `banger attach %[1]s` follows it", vm.Spec.Name, shortID(ran.ID))
	}
	return ran, nil
}

// farewell says how to use or delete a VM that stays.
func (a *App) farewell(vm banger.VM) {
	a.note("vm %[1]s stays: `banger exec %[1]s` runs a shell in it, `banger rm %[1]s` deletes it", vm.Spec.Name)
}

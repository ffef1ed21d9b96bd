package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

func vmAttachCommand(a *App) *cobra.Command {
	var noStdin bool
	cmd := gives(a, &cobra.Command{
		Use:   "attach VM [ID]",
		Short: "Follow a command that runs in a VM",
		Long: `Follows a command that "banger run -d" or "banger exec -d" left running: without ID
the latest. What is kept of its output comes first. Signals go to the command, and so
does standard input, if it was started with -i. The status is the command's, also when
it has ended before. Who followed it before is cut off. To look at the output
without touching the command, use "banger logs -f".

Ctrl-C interrupts the command; three within two seconds stop following it.
` + statuses,
		Example: `  banger vm attach web
  banger vm attach web 1f3a
  banger vm attach $(banger run -d ./repo -- make)`,
		Args:              nargs(1, 2),
		ValidArgsFunction: completeCommands(a, 2),
		Annotations:       map[string]string{guestStatus: "yes"},
	}, nil, func(ctx context.Context, args []string, say func(...Ran) error) error {
		look, stop := interruptible(ctx)
		vm, err := a.VMs().VM(look, args[0])
		var c guest.Command
		if err == nil {
			c, err = theCommand(look, a, vm, append(args, "")[1])
		}
		stop()
		if err != nil {
			return err
		}
		ran, err := attach(ctx, a, vm, c, !noStdin)
		if ran.Exit != nil {
			return firstError(say(ran), err)
		}
		return err
	}, ranNothing)
	cmd.Flags().BoolVarP(&noStdin, "no-stdin", "n", false, "don't pass standard input")
	return cmd
}

// attach follows a command to its end, as interact does.
func attach(ctx context.Context, a *App, vm banger.VM, c guest.Command, stdin bool) (Ran, error) {
	ran := Ran{VM: vm.ID, Name: vm.Spec.Name, ID: c.ID}
	lend := func(streams *guest.IO) (func(), error) {
		in, inTTY := terminal(a.In)
		out, outTTY := terminal(a.Out)
		if !c.TTY || !c.Running || !inTTY || !outTTY || !stdin {
			return func() {}, nil
		}
		s, err := rawScreen(in, out)
		if err != nil {
			return nil, err
		}
		s.resize <- sizeOf(out) // it was another terminal's, or none's
		streams.Resize = s.resize
		return s.restore, nil
	}
	err := follow(ctx, a, vm, &ran, stdin, lend, func(ctx context.Context, _ func(), streams guest.IO) (guest.ExitStatus, error) {
		return a.guest(vm).Attach(ctx, c.ID, streams)
	})
	return ran, err
}

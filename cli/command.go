package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

func commandCommand(a *App) *cobra.Command {
	cmd := a.group("command", "List and end commands that run in VMs")
	cmd.Aliases = []string{"commands"}
	cmd.Long = `Lists what runs in VMs by "banger exec" and "banger run", and what has ended there, and
sends signals to it. A VM keeps the last 64 commands that have ended, with 16 MiB of
their output in all, until it stops. "banger logs" prints the output of one.`
	cmd.AddCommand(commandListCommand(a), commandKillCommand(a))
	return cmd
}

// commands lists the commands that a VM's guest keeps, oldest first.
func commands(ctx context.Context, a *App, vm banger.VM) ([]guest.Command, error) {
	bound, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	all, err := a.guest(vm).Sessions(bound)
	if err != nil && ctx.Err() == nil && bound.Err() != nil {
		return nil, banger.Errorf(banger.CodeTimeout, "the agent of vm %s didn't answer within %s", vm.Spec.Name, healthTime).
			WithHint("`banger logs --console %s` prints the VM's console", vm.Spec.Name)
	}
	if err != nil {
		return nil, a.execError(ctx, vm, err)
	}
	return guest.CommandsOf(vm.ID, all), nil
}

// theCommand returns a VM's command with this id, or without one the latest that was left
// to itself, one that runs before those that have ended.
func theCommand(ctx context.Context, a *App, vm banger.VM, id string) (guest.Command, error) {
	all, err := commands(ctx, a, vm)
	if err != nil {
		return guest.Command{}, err
	}
	if id == "" {
		return latest(vm, all)
	}
	cmd, err := guest.FindCommand(all, id)
	if err == nil {
		return cmd, nil
	}
	e := banger.Errorf(banger.Code(guest.CodeOf(err)), "vm %s: %w", vm.Spec.Name, err)
	if e.Code == banger.CodeConflict {
		return cmd, e.WithHint("use more digits of the id")
	}
	return cmd, e.WithHint("`banger command list %s` lists them: those that run and the last that have ended, until the VM stops", vm.Spec.Name)
}

func latest(vm banger.VM, all []guest.Command) (best guest.Command, err error) {
	for _, cmd := range all {
		if cmd.Detached && (cmd.Running || !best.Running) {
			best = cmd
		}
	}
	if best.ID == "" {
		return best, banger.Errorf(banger.CodeNotFound, "no command was left running in vm %s", vm.Spec.Name).
			WithHint("`banger exec -d %[1]s COMMAND` leaves one, `banger command list %[1]s` lists others, which an id names", vm.Spec.Name)
	}
	return best, nil
}

// shortID is as much of a command's id as is shown.
func shortID(id string) string { return printable(id[:min(len(id), 12)], 12) }

// completeCommands completes a VM's name and then ids of its commands.
func completeCommands(a *App, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return a.completeVMs(1)(cmd, args, prefix)
		}
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var ids []string
		if vm, err := a.VMs().VM(cmd.Context(), args[0]); err == nil {
			all, _ := commands(cmd.Context(), a, vm) // on an error there is nothing to offer
			for _, c := range all {
				ids = append(ids, shortID(c.ID)+"\t"+printable(strings.Join(c.Argv, " "), 40))
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
	"banger/guest/flow"
)

func portsCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use:   "ports VM",
		Short: "List what listens in a running VM",
		Long: `Lists the ports that programs in a VM listen on, with their process and user. What is
in a container of the VM's own isn't seen, unless its port is published there.

To reach one from this host: banger ssh -N -L 3000:localhost:3000 VM`,
		Example:           "  banger ports web",
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) ([]flow.Port, error) {
		vm, err := a.VMs().VM(ctx, args[0])
		if err != nil {
			return nil, err
		}
		list, err := flow.Ports(ctx, a.guest(vm).Dial)
		switch {
		case guest.CodeOf(err) == guest.CodeInvalid: // it can't be our request
			return nil, banger.Errorf(banger.CodeUnavailable, "the agent of vm %s is of an earlier banger: %w", vm.Spec.Name, err).
				WithHint("restart the VM, and it is of this one")
		case err != nil:
			return nil, a.execError(ctx, vm, err)
		}
		return list, nil
	}, func(w *page, list []flow.Port) {
		rows := make([][]string, len(list))
		for i, p := range list {
			pid := "-"
			if p.PID > 0 {
				pid = fmt.Sprint(p.PID)
			}
			rows[i] = []string{fmt.Sprintf("%d/%s", p.Port, p.Network), p.Address, printable(orDash(p.Process), 16), pid, printable(orDash(p.User), 32)}
		}
		w.table([]column{{title: "PORT"}, {title: "ADDRESS"}, {title: "PROCESS"}, {title: "PID", rank: 2}, {title: "USER", rank: 1}}, rows)
	})
}

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
	"banger/guest/flow"
)

// PortAt is a port, and its address for a browser on this host.
type PortAt struct {
	flow.Port
	URL string `json:"url,omitempty"`
}

func portsCommand(a *App) *cobra.Command {
	return answers(a, &cobra.Command{
		Use:   "ports VM",
		Short: "List what listens in a running VM",
		Long: `Lists the ports that programs in a VM listen on, with their process and user. What is
in a container of the VM's own isn't seen, unless its port is published there.

A browser of yours on this host reaches each TCP port at its URL, if HTTP is spoken there,
WebSockets included. http://NAME.localhost:8788/ is a page of a VM's ports, and
http://localhost:8788/ one of all VMs. The URL of a stopped VM starts it. Other users of
this host are refused. proxy_port in config.toml is another port, or 0 for none.

To reach a port in another way: banger ssh -N -L 3000:localhost:3000 VM`,
		Example: `  banger ports web
  xdg-open http://web.localhost:8788/
  curl http://3000.web.localhost:8788/`,
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) ([]PortAt, error) {
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
		at, _ := a.System().Proxy(ctx) // a daemon that doesn't know of it has none
		if at.Problem != "" && !a.json {
			a.note("no URLs: %s; %s", at.Problem, at.Hint)
		}
		with := make([]PortAt, len(list))
		for i, p := range list {
			if with[i].Port = p; at.Serving && p.Network == "tcp" {
				with[i].URL = fmt.Sprintf("http://%d.%s.localhost:%d/", p.Port, vm.Spec.Name, at.Port)
			}
		}
		return with, nil
	}, func(w *page, list []PortAt) {
		rows := make([][]string, len(list))
		for i, p := range list {
			pid := "-"
			if p.PID > 0 {
				pid = fmt.Sprint(p.PID)
			}
			rows[i] = []string{fmt.Sprintf("%d/%s", p.Port.Port, p.Network), p.Address, printable(orDash(p.Process), 16), pid, printable(orDash(p.User), 32), orDash(p.URL)}
		}
		w.table([]column{{title: "PORT"}, {title: "ADDRESS", rank: 3}, {title: "PROCESS"}, {title: "PID", rank: 2}, {title: "USER", rank: 1}, {title: "URL"}}, rows)
	})
}

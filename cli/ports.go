package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
	"banger/guest/flow"
)

// Listening is a port of a VM that a program listens on, or that is published.
type Listening struct {
	flow.Port                    // Address is empty where nobody listens
	Published []banger.Published `json:"published,omitempty"`
	URL       string             `json:"url,omitempty"` // for a browser on this host
}

// listening joins what listens in a VM with what is published of it.
func listening(ports []flow.Port, published []banger.Published) []Listening {
	list := make([]Listening, len(ports))
	for i, p := range ports {
		list[i].Port = p
	}
	for _, p := range published {
		is := func(l Listening) bool { return int(l.Port.Port) == p.Guest && l.Network == p.Protocol }
		if !slices.ContainsFunc(list, is) {
			list = append(list, Listening{Port: flow.Port{Network: p.Protocol, Port: uint16(p.Guest)}})
		}
		for i := range list {
			if is(list[i]) {
				list[i].Published = append(list[i].Published, p)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Listening) int { return int(a.Port.Port) - int(b.Port.Port) })
	return list
}

func portHosts(ports []banger.Published) string {
	var where []string
	for _, p := range ports {
		where = append(where, at(p))
	}
	return strings.Join(where, ", ")
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

HOST is where this host leads to a port: "banger vm set -p 8080:80 VM" publishes one for
good, "banger forward VM 3000" leads to one until Ctrl-C.`,
		Example: `  banger ports web
  xdg-open http://web.localhost:8788/
  curl http://3000.web.localhost:8788/`,
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) ([]Listening, error) {
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
		proxy, _ := a.System().Proxy(ctx) // a daemon that doesn't know of it has none
		if proxy.Problem != "" && !a.json {
			a.note("no URLs: %s; %s", proxy.Problem, proxy.Hint)
		}
		all := listening(list, vm.Spec.Ports)
		for i, p := range all {
			if proxy.Serving && p.Network == "tcp" {
				all[i].URL = fmt.Sprintf("http://%d.%s.localhost:%d/", p.Port.Port, vm.Spec.Name, proxy.Port)
			}
		}
		return all, nil
	}, func(w *page, list []Listening) {
		rows := make([][]string, len(list))
		for i, p := range list {
			pid := "-"
			if p.PID > 0 {
				pid = fmt.Sprint(p.PID)
			}
			rows[i] = []string{fmt.Sprintf("%d/%s", p.Port.Port, p.Network), orDash(p.Address), printable(orDash(p.Process), 16), pid, printable(orDash(p.User), 32), orDash(portHosts(p.Published)), orDash(p.URL)}
		}
		columns := []column{{title: "PORT"}, {title: "ADDRESS", rank: 3}, {title: "PROCESS"}, {title: "PID", rank: 2}, {title: "USER", rank: 1}, {title: "HOST"}, {title: "URL"}}
		if !slices.ContainsFunc(list, func(l Listening) bool { return len(l.Published) > 0 }) {
			columns = slices.Delete(columns, 5, 6)
			for i, r := range rows {
				rows[i] = slices.Delete(r, 5, 6)
			}
		}
		w.table(columns, rows)
	})
}

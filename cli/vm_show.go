package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func vmShowCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use:        "show VM",
		SuggestFor: []string{"inspect", "describe"},
		Short:      "Show one VM: its settings, its state, and why it is in that state",
		Example: `  banger vm show web
  banger vm show web --json`,
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, func(ctx context.Context, args []string) (banger.VM, error) { return a.VMs().VM(ctx, args[0]) },
		func(w *page, vm banger.VM) { w.fields(details(vm)) })
}

func details(vm banger.VM) [][]string {
	s := vm.Spec
	rows := [][]string{
		{"name", s.Name},
		{"id", vm.ID},
		{"state", string(vm.State)},
	}
	add := func(key, value string) {
		if value != "" {
			rows = append(rows, []string{key, printable(value, 400)})
		}
	}
	stamp := func(key string, t time.Time) {
		if !t.IsZero() {
			add(key, t.Local().Format(time.RFC3339))
		}
	}
	add("reason", vm.Reason)
	if vm.NeedsRestart {
		add("changed", "needs a restart: the guest still has the old values")
	}
	add("image", s.Image+" ("+banger.ShortID(vm.ImageID)+")")
	add("kernel", s.Kernel+" ("+vm.KernelID+")")
	add("vcpu", strconv.Itoa(s.VCPU))
	add("memory", formatMiB(s.MemoryMiB))
	add("disk", formatMiB(s.DiskMiB))
	add("network", string(s.Net))
	add("ports", portWords(s.Ports, " -> "))
	add("isolation", string(s.Isolation))
	add("hypervisor", s.Hypervisor)
	add("limits", formatLimits(s.Limits))
	if s.Insecure {
		add("sandbox", "none if this host can't give the VMM one (--insecure-vmm)")
	}
	add("workspace", s.Workspace)
	add("labels", labels(s.Labels).String())
	if s.Remove {
		add("lives", "as long as the command that made it (--rm)")
	}
	add("boots", strconv.Itoa(vm.Boots))
	stamp("created", vm.Created)
	stamp("started", vm.Started)
	if l := vm.Launch; l != nil {
		text := "booted: " + l.Why
		if l.Template != "" {
			text = "restored from template " + l.Template
		}
		add("start", text)
		var took []string
		for _, st := range l.Stages {
			took = append(took, st.Name+" "+(time.Duration(st.TookMS)*time.Millisecond).String())
		}
		add("stages", strings.Join(took, ", "))
	}
	if vm.State == banger.Running {
		stamp("ends", vm.Ends)
	}
	if ttl := vm.Spec.TTLMS; ttl > 0 {
		does := "stopped"
		if s.Remove {
			does = "deleted"
		}
		add("time to live", "it is "+does+" when it has run for "+(time.Duration(ttl)*time.Millisecond).String())
	}
	if idle := vm.Spec.IdleStopMS; idle > 0 {
		add("idle stop", "it is stopped when it wasn't used for "+(time.Duration(idle)*time.Millisecond).String())
	}
	stamp("stopped", vm.Stopped)
	if e := vm.Exit; e != nil {
		text := string(e.Kind)
		if e.Detail != "" {
			text += ": " + e.Detail
		}
		add("last end", text)
	}
	if p := vm.Held.VMM; p.PID != 0 {
		add("vmm pid", strconv.Itoa(p.PID))
	}
	return rows
}

func formatLimits(l banger.Limits) string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{l.DiskMiB, "MiB/s a disk"}, {l.DiskOps, "requests/s a disk"}, {l.NetMiB, "MiB/s each way on the network"}} {
		if p.n > 0 {
			parts = append(parts, strconv.Itoa(p.n)+" "+p.what)
		}
	}
	return strings.Join(parts, ", ")
}

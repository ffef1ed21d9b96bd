package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func vmSetCommand(a *App) *cobra.Command {
	var vcpu count
	memory, disk := size{unit: 1}, size{unit: 1024}
	var ttl, idle time.Duration
	var on runsOn
	var publish publishFlags
	var unpublish portList
	var change banger.Change
	cmd := eachVM(a, &cobra.Command{
		Use:   "set VM...",
		Short: "Change VMs' CPUs, memory, disk size, isolation, published ports and times",
		Long: `Changes VMs' CPUs, memory and disk size. A disk can only grow, and the guest's file
system grows with it. A running VM keeps what it has until it is restarted.

--isolation or --hypervisor moves a stopped VM, and another moves it back. Its disk stays,
and it gets the kernel that new VMs have there, which is fetched if it isn't here.

With -p and --unpublish ports of this host lead to a VM, or no longer do. That counts at
once, and connections that are open go on.

With --ttl a running VM has so much time from now on; each start gives it the same
time again. Times count at once, and 0 takes them away.`,
		Example: `  banger vm set --memory 4G --vcpu 4 web
  banger vm set --disk-size 40G web && banger vm restart web
  banger vm stop web && banger vm set --isolation process web
  banger vm set -p 8080:80 web
  banger vm set --unpublish 80 web
  banger vm set --ttl 2h --idle-stop 30m web`,
	}, func(ctx context.Context, vm banger.VM) (banger.VM, error) {
		return a.change(ctx, vm, change)
	})
	fs := cmd.Flags()
	fs.Var(&vcpu, "vcpu", "virtual CPUs; also --cpus")
	fs.VarP(&memory, "memory", "m", "memory: 512M, 2G; a bare number is MiB")
	fs.Var(&disk, "disk-size", "its own disk: 10G, 512M; a bare number is GiB")
	fs.Var((*seconds)(&ttl), "ttl", "stop it when this time has passed: 2h, 90m; with --rm, delete it then; 0: never")
	fs.Var((*seconds)(&idle), "idle-stop", "stop it after this time without a client, a command or load: 30m; 0: as config.toml says")
	publish.add(fs)
	fs.Var(&unpublish, "unpublish", "lead a port of this host to the VM no longer: 80 (its port), 8080:80 (repeatable)")
	on.addFlags(cmd)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		change = banger.Change{VCPU: int(vcpu), MemoryMiB: memory.mib, DiskMiB: disk.mib}
		change.Isolation, change.Hypervisor = on.given()
		for _, t := range []struct {
			flag  string
			given time.Duration
			is    **int64
		}{{"ttl", ttl, &change.TTLMS}, {"idle-stop", idle, &change.IdleStopMS}} {
			if ms := t.given.Milliseconds(); cmd.Flags().Changed(t.flag) {
				*t.is = &ms
			}
		}
		list, err := publish.list()
		if err != nil {
			return err
		}
		if len(list) > 0 {
			change.Publish = &list
		}
		if len(unpublish) > 0 {
			less := []banger.Published(unpublish)
			change.Unpublish = &less
		}
		if change == (banger.Change{}) {
			return usage(cmd, "vm set: nothing to change: give --vcpu, --memory, --disk-size, --isolation, --hypervisor, --publish, --unpublish, --ttl or --idle-stop")
		}
		return nil
	}
	return cmd
}

// change changes a VM and tells the user if it needs a restart.
func (a *App) change(ctx context.Context, vm banger.VM, change banger.Change) (banger.VM, error) {
	vm, err := a.VMs().SetVM(ctx, vm.ID, change)
	if err == nil && vm.NeedsRestart {
		a.note("vm %[1]s needs a restart for this to take effect: banger vm restart %[1]s", vm.Spec.Name)
	}
	if err == nil && change.Publish != nil {
		tellPorts(a, vm, *change.Publish)
	}
	return vm, err
}

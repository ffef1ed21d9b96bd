package cli

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func templateCommand(a *App) *cobra.Command {
	cmd := a.group("template", "Frozen guests that VMs are started from")
	cmd.Long = `A template is a guest that was frozen before it had a disk, a network, a name or a
secret. VMs with the same kernel, CPUs and memory, and any image and disk, are
restored from it in a fraction of the time that a boot takes. After a VM had to be
booted, the daemon makes a template when nothing else goes on, and a new one when
anything in it changes. "banger vm show" says how a VM was started.

An image template is frozen later, when an image's init is up, and is for new VMs of
that image: see "banger image warm".`
	cmd.AddCommand(templateListCommand(a), templateShowCommand(a), templateCreateCommand(a), templateDeleteCommand(a))
	return cmd
}

// templateFlags say which template is to be made.
type templateFlags struct {
	spec         banger.TemplateSpec
	net          string
	on           runsOn
	quiet        bool
	memory, disk size
}

// command makes cmd one that makes a template.
func (f *templateFlags) command(a *App, cmd *cobra.Command) *cobra.Command {
	f.memory.unit = 1
	fs := cmd.Flags()
	fs.StringVar(&f.spec.Kernel, "kernel", "", "the kernel of its VMs")
	fs.IntVar(&f.spec.VCPU, "vcpu", 0, "their virtual CPUs")
	fs.Var(&f.memory, "memory", "their memory: 512M, 2G; a bare number is MiB")
	fs.StringVar(&f.net, "net", "", `their network: "user" or "none"`)
	f.on.addFlags(cmd)
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	_ = cmd.RegisterFlagCompletionFunc("net", cobra.FixedCompletions([]string{"user", "none"}, cobra.ShellCompDirectiveNoFileComp))
	return answer(a, cmd, func(ctx context.Context, args []string) (banger.Template, error) {
		f.spec.MemoryMiB, f.spec.DiskMiB, f.spec.Net = f.memory.mib, f.disk.mib, banger.NetMode(f.net)
		f.spec.Isolation, f.spec.Hypervisor = f.on.given()
		if len(args) > 0 {
			f.spec.Image = args[0]
		}
		show := a.progress(f.quiet)
		defer show.end()
		return a.Templates().CreateTemplate(ctx, f.spec, show.event)
	}, func(w *page, t banger.Template) { _, _ = io.WriteString(w, t.ID+"\n") })
}

// completeTemplates completes template ids; without a daemon it is silent.
func completeTemplates(a *App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		all, _ := a.Templates().Templates(cmd.Context())
		var ids []string
		for _, t := range all {
			if strings.HasPrefix(t.ID, prefix) {
				ids = append(ids, t.ID)
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

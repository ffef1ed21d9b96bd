package cli

import (
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func templateCommand(a *App) *cobra.Command {
	cmd := group("template", "Frozen guests that VMs are started from")
	cmd.Long = `A template is a guest frozen before it has seen a disk, a network, a name or a
secret. VMs with its kernel, CPUs and memory are restored from it in a fraction of
the time a boot takes, whatever their image and disk. Templates are made by
themselves after a VM had to be booted, when nothing else goes on, and remade when
anything in them changes; "banger vm show" says how a VM was started.`
	cmd.AddCommand(templateListCommand(a), templateShowCommand(a), templateCreateCommand(a), templateDeleteCommand(a))
	return cmd
}

func templateListCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List templates, the last used first", Example: "  banger template list", Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			all, err := a.Frozen.Templates(ctx)
			if err != nil {
				return err
			}
			if all == nil {
				all = []banger.Template{}
			}
			return a.print(all, func(w io.Writer) {
				rows := [][]string{{"ID", "KERNEL", "VCPU", "MEMORY", "NETWORK", "SIZE", "AGE", "USED"}}
				for _, t := range all {
					rows = append(rows, []string{t.ID, t.Kernel, strconv.Itoa(t.VCPU), formatMiB(t.MemoryMiB), string(t.Net),
						formatBytes(t.Bytes), age(time.Since(t.Created)), age(time.Since(t.Used))})
				}
				table(w, rows)
			})
		},
	}
}

func templateShowCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "show TEMPLATE", Short: "Show one template", Example: "  banger template show 4f0c", Args: nargs(1, 1),
		ValidArgsFunction: completeTemplates(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			all, err := a.Frozen.Templates(ctx)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all, func(t banger.Template) bool {
				return t.ID == args[0] || len(args[0]) >= 4 && strings.HasPrefix(t.ID, args[0])
			})
			if i < 0 {
				return banger.Errorf(banger.CodeNotFound, "no template %q", args[0]).WithHint("banger template list shows all")
			}
			t := all[i]
			return a.print(t, func(w io.Writer) {
				table(w, [][]string{
					{"id", t.ID}, {"hypervisor", t.Hypervisor}, {"kernel", t.Kernel}, {"vcpu", strconv.Itoa(t.VCPU)},
					{"memory", formatMiB(t.MemoryMiB)}, {"network", string(t.Net)}, {"size", formatBytes(t.Bytes)},
					{"created", t.Created.Local().Format(time.RFC3339)}, {"used", t.Used.Local().Format(time.RFC3339)},
					{"made in", (time.Duration(t.TookMS) * time.Millisecond).String()},
				})
			})
		},
	}
}

func templateCreateCommand(a *App) *cobra.Command {
	var spec banger.TemplateSpec
	var net string
	var quiet bool
	memory := size{unit: 1}
	cmd := &cobra.Command{
		Use: "create [flags]", Short: "Make a template now instead of when one is missed",
		Example: `  banger template create
  banger template create --memory 2G --vcpu 2`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			spec.MemoryMiB, spec.Net = memory.mib, banger.NetMode(net)
			show := a.progress(quiet)
			t, err := a.Frozen.CreateTemplate(ctx, spec, show.event)
			show.end()
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { _, _ = io.WriteString(w, t.ID+"\n") })
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&spec.Kernel, "kernel", "", "the kernel of its VMs")
	fs.IntVar(&spec.VCPU, "vcpu", 0, "their virtual CPUs")
	fs.Var(&memory, "memory", "their memory: 512M, 2G; a bare number is MiB")
	fs.StringVar(&net, "net", "", `their network: "user" or "none"`)
	fs.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	_ = cmd.RegisterFlagCompletionFunc("net", cobra.FixedCompletions([]string{"user", "none"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func templateDeleteCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "delete TEMPLATE...", Aliases: []string{"rm"}, Short: "Delete templates",
		Long:    "Deletes templates. VMs that were started from one run on.",
		Example: "  banger template delete 4f0c", Args: nargs(1, -1), ValidArgsFunction: completeTemplates(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			deleted, errs := []string{}, []error{}
			for _, id := range args {
				err := a.Frozen.DeleteTemplate(ctx, id)
				if errs = append(errs, err); err == nil {
					deleted = append(deleted, id)
				}
			}
			return a.removed(deleted, a.tell(errs))
		},
	}
}

// completeTemplates completes template ids; without a daemon it is silent.
func completeTemplates(a *App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		all, _ := a.Frozen.Templates(cmd.Context())
		var ids []string
		for _, t := range all {
			if strings.HasPrefix(t.ID, prefix) {
				ids = append(ids, t.ID)
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

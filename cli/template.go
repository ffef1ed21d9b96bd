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
anything in them changes; "banger vm show" says how a VM was started.

An image template goes further: "banger image warm" makes one of an image whose
init is up, for new VMs of that image.`
	cmd.AddCommand(templateListCommand(a), templateShowCommand(a), templateCreateCommand(a), templateDeleteCommand(a))
	return cmd
}

func templateListCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List templates, the last used first", Example: "  banger template list", Args: nargs(0, 0),
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
				rows := [][]string{{"ID", "IMAGE", "KERNEL", "VCPU", "MEMORY", "NETWORK", "SIZE", "AGE", "USED"}}
				for _, t := range all {
					rows = append(rows, []string{t.ID, orDash(t.Image), t.Kernel, strconv.Itoa(t.VCPU), formatMiB(t.MemoryMiB), string(t.Net),
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
				rows := [][]string{{"id", t.ID}}
				if t.Image != "" {
					rows = append(rows, []string{"image", t.Image}, []string{"after", orDash(t.After)}, []string{"disk", formatMiB(t.DiskMiB)})
				}
				table(w, append(rows, [][]string{
					{"hypervisor", t.Hypervisor}, {"kernel", t.Kernel}, {"vcpu", strconv.Itoa(t.VCPU)},
					{"memory", formatMiB(t.MemoryMiB)}, {"network", string(t.Net)}, {"size", formatBytes(t.Bytes)},
					{"created", t.Created.Local().Format(time.RFC3339)}, {"used", t.Used.Local().Format(time.RFC3339)},
					{"made in", (time.Duration(t.TookMS) * time.Millisecond).String()},
				}...))
			})
		},
	}
}

func templateCreateCommand(a *App) *cobra.Command {
	var make templateFlags
	cmd := &cobra.Command{
		Use: "create [flags]", Short: "Make a template now instead of when one is missed",
		Example: `  banger template create
  banger template create --memory 2G --vcpu 2`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return make.run(a, cmd) },
	}
	make.flags(cmd)
	return cmd
}

func imageWarmCommand(a *App) *cobra.Command {
	make := templateFlags{disk: size{unit: 1024}}
	cmd := &cobra.Command{
		Use: "warm IMAGE [flags]", Short: "Have new VMs of an image start where its init, and a command, had got to",
		Long: `Boots an image, waits for its init, runs a command in it if one is given, and
freezes all of it, memory and disk, as an image template. Every VM of the image
that is run or created afterwards, with these CPUs, this memory and disk size,
goes on from there, in the time that restoring takes: its services run, what the
command made is there. It gets a name, addresses, keys and random numbers of its
own first; what programs had in their memory, it shares with the others.

No secret belongs into an image template: it is kept on disk. The template is
remade by calling this again, and goes unused when the image or kernel changes.`,
		Example: `  banger image warm debian-12
  banger image warm debian-12 --after 'apt-get update && apt-get install -y build-essential'`,
		Args: nargs(1, 1), ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			make.spec.Image = args[0]
			return make.run(a, cmd)
		},
	}
	make.flags(cmd)
	cmd.Flags().Var(&make.disk, "disk-size", "their disk: 10G, 512M; a bare number is GiB")
	cmd.Flags().StringVar(&make.spec.After, "after", "", "a shell's command to run in it before it is frozen")
	return cmd
}

// templateFlags say which template is to be made.
type templateFlags struct {
	spec         banger.TemplateSpec
	net          string
	quiet        bool
	memory, disk size
}

func (f *templateFlags) flags(cmd *cobra.Command) {
	f.memory.unit = 1
	fs := cmd.Flags()
	fs.StringVar(&f.spec.Kernel, "kernel", "", "the kernel of its VMs")
	fs.IntVar(&f.spec.VCPU, "vcpu", 0, "their virtual CPUs")
	fs.Var(&f.memory, "memory", "their memory: 512M, 2G; a bare number is MiB")
	fs.StringVar(&f.net, "net", "", `their network: "user" or "none"`)
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	_ = cmd.RegisterFlagCompletionFunc("net", cobra.FixedCompletions([]string{"user", "none"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *templateFlags) run(a *App, cmd *cobra.Command) error {
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	f.spec.MemoryMiB, f.spec.DiskMiB, f.spec.Net = f.memory.mib, f.disk.mib, banger.NetMode(f.net)
	show := a.progress(f.quiet)
	t, err := a.Frozen.CreateTemplate(ctx, f.spec, show.event)
	show.end()
	if err != nil {
		return err
	}
	return a.print(t, func(w io.Writer) { _, _ = io.WriteString(w, t.ID+"\n") })
}

func templateDeleteCommand(a *App) *cobra.Command {
	return &cobra.Command{
		Use: "delete TEMPLATE...", Aliases: []string{"rm"}, Short: "Delete templates",
		Long:    "Deletes templates. VMs that were started from one run on.",
		Example: "  banger template delete 4f0c", Args: nargs(1, -1), ValidArgsFunction: completeTemplates(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.removed(deleteAll(ctx, a, args, a.Frozen.DeleteTemplate))
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

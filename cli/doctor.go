package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/doctor"
	"banger/version"
)

// askTime bounds what doctor asks of a daemon.
const askTime = 30 * time.Second

func doctorCommand(a *App) *cobra.Command {
	var report bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this host: what works, what doesn't, and what mends it",
		Long: `Looks at everything banger needs and says what was found, what it means, and the
command that mends it; then which drivers new VMs get, and why. It changes nothing.

The status is 0 when VMs can be made here, warnings or not, and 6 when they can't.
--report prints what a bug report needs, without your name, your host's and your VMs'.`,
		Example: `  banger doctor
  banger doctor --json | jq '.checks[] | select(.level == "fail")'
  banger doctor --report > report.md`,
		Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			r := examine(ctx, a)
			if ctx.Err() != nil {
				return banger.Errorf(banger.CodeCanceled, "interrupted")
			}
			if report {
				_, err := io.WriteString(a.Out, bugReport(ctx, a, r))
				return err
			}
			if err := a.print(r, func(w io.Writer) { printReport(w, r) }); err != nil {
				return err
			}
			if !r.Ready {
				return exitStatus(ExitUnavailable)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&report, "report", false, "print a report for a bug, with names taken out")
	return cmd
}

// examine is the host's examination, and the daemon's answers where it has any.
func examine(ctx context.Context, a *App) doctor.Report {
	r, err := a.Daemon.Examine(ctx)
	if err != nil {
		r.Add(doctor.Check{Name: "programs", Level: doctor.Fail, Found: err.Error(), Means: "no daemon can start",
			Mend: "install banger's programs together, in one directory: `make build`, or unpack the release again"})
		return r
	}
	if !r.Ready && !r.Records {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	st, err := a.Daemon.Status(ctx)
	if err != nil {
		r.Add(doctor.Check{Name: "daemon", Level: doctor.Fail, Found: err.Error(), Mend: "`banger daemon restart`"})
		return r
	}
	conf, err := a.Config()
	if err != nil {
		return r // said already
	}
	var images []banger.Image
	var kernels []banger.Kernel
	if st.Running || r.Records { // a host that never had a daemon gets none by being looked at
		if images, err = a.Catalog.Images(ctx); err == nil {
			kernels, err = a.Catalog.Kernels(ctx)
		}
		if err != nil {
			r.Add(doctor.Check{Name: "daemon", Level: doctor.Fail, Found: err.Error(), Means: "no command can reach a VM", Mend: "the log says more: " + st.Log})
			return r
		}
		r.Add(doctor.Check{Name: "daemon", Level: doctor.OK, Found: "it answers on " + st.Socket})
	} else {
		r.Add(doctor.Check{Name: "daemon", Level: doctor.OK, Found: "none runs; a command that needs it starts it"})
	}
	r.Add(doctor.Kernel(conf.DefaultKernel, kernels), doctor.Image(conf.DefaultImage, images))
	return r
}

func printReport(w io.Writer, r doctor.Report) {
	marks := map[doctor.Level]string{doctor.OK: "ok  ", doctor.Note: "note", doctor.Warn: "WARN", doctor.Fail: "FAIL"}
	for _, c := range r.Checks {
		_, _ = fmt.Fprintf(w, "%s  %s: %s\n", marks[c.Level], c.Name, printable(c.Found, 400))
		if c.Means != "" {
			_, _ = fmt.Fprintf(w, "      %s\n", c.Means)
		}
		if c.Mend != "" {
			_, _ = fmt.Fprintf(w, "      to mend it: %s\n", c.Mend)
		}
	}
	_, _ = fmt.Fprintln(w)
	for _, d := range r.Drivers {
		_, _ = fmt.Fprintf(w, "%s driver: %s (%s)\n", d.For, d.Name, d.Why)
	}
	if r.Ready {
		_, _ = fmt.Fprintln(w, "ready: VMs can run on this host")
	} else {
		_, _ = fmt.Fprintln(w, "not ready: mend what has FAIL before it")
	}
}

// bugReport is what a bug report needs, with names taken out.
func bugReport(ctx context.Context, a *App, r doctor.Report) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "<!-- Names of you, your host and your VMs were taken out. Look through it before you post it. -->\n## Versions\n```\nbanger %s\n", version.String())
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var names []string
	if st, err := a.Daemon.Status(ctx); err == nil && st.Running {
		_, _ = fmt.Fprintf(&b, "bangerd %s, API %d\n", st.Daemon.Build, st.Daemon.API)
		vms, err := a.VMs.VMs(ctx)
		if err != nil {
			_, _ = fmt.Fprintln(&b, "VMs:", err)
		}
		for _, vm := range vms {
			names = append(names, vm.Spec.Name)
			_, _ = fmt.Fprintf(&b, "vm %s: %s, %d CPUs, %d MiB, %s, %s: %s\n", vm.ID, vm.State, vm.Spec.VCPU, vm.Spec.MemoryMiB, vm.Spec.Hypervisor, vm.Spec.Net, printable(vm.Reason, 200))
		}
	}
	b.WriteString(doctor.System("") + "```\n## Doctor\n```\n")
	printReport(&b, r)
	b.WriteString("```\n## Settings\n```\n")
	if conf, err := a.Config(); err != nil {
		_, _ = fmt.Fprintln(&b, err)
	} else {
		for _, s := range conf.Settings() {
			if s.Source != "default" {
				_, _ = fmt.Fprintf(&b, "%s = %v\n", s.Key, s.Value)
			}
		}
	}
	_, _ = fmt.Fprintf(&b, "```\n## End of the daemon's log\n```\n%s\n```\n", a.Daemon.Log(60))
	return doctor.Redact(b.String(), append(doctor.Names(), names...))
}

package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/config"
	"banger/host/xdg"
)

// askTime is how long doctor waits for a daemon's answer.
const askTime = 30 * time.Second

func doctorCommand(a *App) *cobra.Command {
	var report bool
	cmd := gives(a, &cobra.Command{
		Use:   "doctor",
		Short: "Look at this host: what works, what doesn't, and how to mend it",
		Long: `Looks at everything banger needs. For each thing it says what was found, what that
means, and which command mends it; then which drivers new VMs get, and why. It changes
nothing.

The status is 0 when VMs can be made here, even with warnings, else 6.
--report prints what a bug report needs, without your name, your host's and your VMs'.`,
		Example: `  banger doctor
  banger doctor --json | jq '.results[0].checks[] | select(.level == "fail")'
  banger doctor --report > report.md`,
		Args: nargs(0, 0),
	}, nil, func(ctx context.Context, _ []string, say func(...banger.Report) error) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		if report && a.json {
			return banger.Errorf(banger.CodeInvalid, "--report prints text, so it can't be used with --json").WithHint("--json alone has the data of the report")
		}
		r := examine(ctx, a)
		switch {
		case ctx.Err() != nil:
			return banger.Errorf(banger.CodeCanceled, "interrupted")
		case report:
			_, err := io.WriteString(a.Out, bugReport(ctx, a, r))
			return err
		}
		if err := say(r); err != nil || r.Ready {
			return err
		}
		if !a.json {
			return exitStatus(ExitUnavailable) // said already
		}
		return banger.Errorf(banger.CodeUnavailable, "VMs can't run on this host").WithHint("mend each check whose level is fail")
	}, func(w *page, list []banger.Report) { printReport(w, list[0]) })
	cmd.Flags().BoolVar(&report, "report", false, "print what a bug report needs, with names taken out")
	return cmd
}

// examine looks at the host, and asks the daemon if there is one.
func examine(ctx context.Context, a *App) banger.Report {
	r, err := a.Daemon.Examine(ctx)
	if err != nil {
		r.Add(banger.Check{Name: "programs", Level: banger.LevelFail, Found: err.Error(), Means: "no daemon can start",
			Mend: "put all of banger's programs into one directory: unpack the release again"})
		return r
	}
	if !r.Ready && !r.Records {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	st, err := a.Daemon.Status(ctx)
	if err != nil {
		r.Add(banger.Check{Name: "daemon", Level: banger.LevelFail, Found: err.Error(), Mend: "`banger daemon restart`"})
		return r
	}
	conf, err := a.Config()
	if err != nil {
		return r // the report has that already
	}
	var images []banger.Image
	var kernels []banger.Kernel
	if st.Running || r.Records { // doctor doesn't start the first daemon of a host
		if images, err = a.Images().Images(ctx); err == nil {
			kernels, err = a.Kernels().Kernels(ctx)
		}
		if err != nil {
			r.Add(banger.Check{Name: "daemon", Level: banger.LevelFail, Found: err.Error(), Means: "no command can reach a VM", Mend: "the log says more: " + st.Log})
			return r
		}
		r.Add(banger.Check{Name: "daemon", Level: banger.LevelOK, Found: "it answers on " + st.Socket})
		if at, err := a.System().Proxy(ctx); err == nil {
			r.Add(browserCheck(at))
		}
	} else {
		r.Add(banger.Check{Name: "daemon", Level: banger.LevelOK, Found: "none runs; a command that needs it starts it"})
	}
	if !slices.ContainsFunc(r.Checks, func(c banger.Check) bool { return c.Name == "kernel" }) { // that one says more
		r.Add(kernelCheck(conf.DefaultKernel, kernels))
	}
	r.Add(imageCheck(conf.DefaultImage, images))
	return r
}

// browserCheck says whether browsers reach VMs.
func browserCheck(at banger.Proxy) banger.Check {
	switch {
	case at.Port == 0:
		return banger.Check{Name: "browsers", Level: banger.LevelOK, Found: "proxy_port is 0: no browser is to reach what listens in VMs"}
	case at.Serving:
		return banger.Check{Name: "browsers", Level: banger.LevelOK, Found: fmt.Sprintf("they reach what listens in VMs at http://localhost:%d/", at.Port)}
	case at.Problem == "":
		return banger.Check{Name: "browsers", Level: banger.LevelNote, Found: fmt.Sprintf("the daemon doesn't serve them at port %d yet", at.Port)}
	}
	return banger.Check{Name: "browsers", Level: banger.LevelWarn, Found: at.Problem, Means: "no browser reaches what listens in VMs", Mend: at.Hint}
}

func printReport(w *page, r banger.Report) {
	marks := map[banger.Level]string{banger.LevelOK: "ok  ", banger.LevelNote: "note", banger.LevelWarn: "WARN", banger.LevelFail: "FAIL"}
	for _, c := range r.Checks {
		w.say(toneOf(strings.TrimSpace(marks[c.Level])), marks[c.Level]+"  ", c.Name+": "+printable(c.Found, 400))
		if c.Means != "" {
			w.say(plain, "      ", c.Means)
		}
		if c.Mend != "" {
			w.say(plain, "      ", "to mend it: "+c.Mend)
		}
	}
	_, _ = fmt.Fprintln(w)
	for _, d := range r.Drivers {
		w.say(plain, d.For+" driver: ", d.Name+" ("+d.Why+")")
	}
	if r.Ready {
		_, _ = fmt.Fprintln(w, w.paint(green, "ready:")+" VMs can run on this host")
	} else {
		_, _ = fmt.Fprintln(w, w.paint(alarm, "not ready:")+" mend each line that begins with FAIL")
	}
}

// kernelCheck judges whether the kernel that new VMs get is here.
func kernelCheck(name string, have []banger.Kernel) banger.Check {
	for _, k := range slices.Backward(have) {
		if k.Name == name || k.ID == name {
			return banger.Check{Name: "kernel", Level: banger.LevelOK, Found: fmt.Sprintf("%s is here, %s", name, k.Version)}
		}
	}
	return banger.Check{Name: "kernel", Level: banger.LevelNote, Found: "the default kernel " + name + " isn't here yet",
		Means: "the first `banger run` fetches it", Mend: "`banger kernel pull`"}
}

// imageCheck judges whether the image that new VMs get is here.
func imageCheck(name string, have []banger.Image) banger.Check {
	for _, i := range have {
		if i.Name == name || i.ID == name {
			return banger.Check{Name: "image", Level: banger.LevelOK, Found: name + " is here"}
		}
	}
	c := banger.Check{Name: "image", Level: banger.LevelNote, Found: "the default image " + name + " isn't here yet", Means: "the first `banger run` makes it of Debian packages",
		Mend: "`banger image build` makes one that has more"}
	if usual := config.Default(xdg.Dirs{}).DefaultImage; name != usual {
		c.Level, c.Means, c.Mend = banger.LevelWarn, "`banger run` has nothing to run in", "`banger image import --name "+name+" TAR` makes it of a root file system; default_image in config.toml chooses another one"
	}
	return c
}

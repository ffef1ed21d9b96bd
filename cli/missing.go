package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

// provide gets, fetches and builds the hypervisor, the kernel and the image that a new VM needs and this host
// doesn't have yet. But for what comes from a registry, it says first what these are, and asks, unless yes. Two that do so at
// once make them once. What was fetched stays when it is interrupted, and the next goes
// on with it.
func (f *pullFlags) provide(ctx context.Context, a *App, cmd *cobra.Command, s banger.Spec, yes bool, show *progress) error {
	missing, err := f.lacking(ctx, a, s, show)
	if err != nil || len(missing) == 0 {
		return err
	}
	if err := canRun(ctx, a); err != nil {
		return err
	}
	if err := mayProvide(a, cmd, missing, yes, show); err != nil {
		return err
	}
	for _, m := range missing {
		switch m.Kind {
		case "hypervisor":
			_, err = a.Daemon.FetchQEMU(ctx, "", show.event)
		case "kernel":
			_, err = a.Kernels().PullKernel(ctx, m.Name, false, show.event)
		default:
			_, err = a.Images().BuildImage(ctx, banger.Recipe{Name: m.Name, Minimal: true}, show.event)
		}
		if err != nil {
			return err
		}
		if m.Kind == "image" {
			show.aside("image %s is the minimal one; `banger image build --replace %[1]s` makes the larger one, with python3, editors and more", m.Name)
		}
	}
	return nil
}

// canRun returns an error where no VM can run: nobody should wait for a download to learn
// that. A host that can't be looked at says what it lacks when a VM is started.
func canRun(ctx context.Context, a *App) error {
	r, err := a.Daemon.Examine(ctx)
	if err != nil || r.Ready {
		return nil
	}
	var found, mends []string
	for _, c := range r.Checks {
		if c.Level == banger.LevelFail {
			found, mends = append(found, c.Name+": "+c.Found), append(mends, c.Mend)
		}
	}
	return banger.Errorf(banger.CodeUnavailable, "VMs can't run on this host yet: %s", strings.Join(found, "; ")).
		WithHint("%s", strings.Join(append(mends, "`banger doctor` says more"), "; "))
}

// mayProvide says what is missing, and asks.
func mayProvide(a *App, cmd *cobra.Command, missing []banger.Missing, yes bool, show *progress) error {
	const lacks = "this host doesn't have yet what the VM needs:"
	var list []string
	var bytes int64
	var takes time.Duration
	for _, m := range missing {
		t := time.Duration(m.Seconds) * time.Second
		bytes, takes = bytes+m.Download, takes+t
		if m.Why != "" {
			m.Name += " (" + m.Why + ")"
		}
		list = append(list, fmt.Sprintf("%s %s: about %s from %s, %s on disk, %s", m.Kind, m.Name, formatBytes(m.Download), m.Source, formatBytes(m.Disk), about(t)))
	}
	lines := lacks + "\n  " + strings.Join(list, "\n  ")
	if yes {
		show.aside("%s", lines)
		return nil
	}
	if _, tty := terminal(a.In); !tty {
		return banger.Errorf(banger.CodeInvalid, "%s %s", lacks, strings.Join(list, "; ")).
			WithHint("there is no terminal to ask on: `%s -y` fetches and makes it without asking", cmd.CommandPath())
	}
	tell(a, "%s\n", lines)
	return ask(a, true, "fetch %s and make it, in about %s", formatBytes(bytes), about(takes))
}

// about is an estimate of a time, in words.
func about(d time.Duration) string {
	if d < 90*time.Second {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return fmt.Sprintf("%d min", int((d+30*time.Second)/time.Minute))
}

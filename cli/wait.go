package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

// waitFlag says how far a started VM must be before the command goes on.
type waitFlag struct{ what string }

const (
	waitAgent = "agent"
	waitBoot  = "boot"
	// bootTime is how long an image's init may take, bootPause the time between two
	// questions whether it is up.
	bootTime  = 5 * time.Minute
	bootPause = 200 * time.Millisecond
)

func (f *waitFlag) String() string { return f.what }
func (f *waitFlag) Type() string   { return "what" }

// Set implements pflag.Value.
func (f *waitFlag) Set(s string) error {
	if s != waitAgent && s != waitBoot {
		return banger.Errorf(banger.CodeInvalid, "it can be %s or %s", waitAgent, waitBoot)
	}
	f.what = s
	return nil
}

func (f *waitFlag) add(cmd *cobra.Command) {
	f.what = waitAgent
	cmd.Flags().Var(f, "wait", `how long to wait: until the "agent" can run commands, or until "boot": the image's init has started its services`)
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{waitAgent, waitBoot}, cobra.ShellCompDirectiveNoFileComp))
}

// wait waits for a VM's init, if that is asked for. An init some of whose services
// failed counts as up.
func (f *waitFlag) wait(ctx context.Context, a *App, vm banger.VM, p banger.Progress) error {
	if f.what != waitBoot {
		return nil
	}
	p(banger.Event{VM: vm.ID, Stage: "init"})
	bound, cancel := context.WithTimeoutCause(ctx, bootTime, fmt.Errorf("the init of vm %s isn't up after %s", vm.Spec.Name, bootTime))
	defer cancel()
	for {
		h, err := a.health(bound, vm)
		if err != nil && bound.Err() == nil {
			return err
		}
		switch h.Init {
		case "running", "degraded", "none":
			return nil
		}
		select {
		case <-bound.Done():
			if ctx.Err() != nil {
				return banger.Errorf(banger.CodeCanceled, "gave up waiting for the init of vm %s: %w", vm.Spec.Name, context.Cause(ctx))
			}
			return banger.Errorf(banger.CodeTimeout, "%w", context.Cause(bound)).WithHint("banger vm logs %s", vm.Spec.Name)
		case <-time.After(bootPause):
		}
	}
}

package proc

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// Detach makes a process that isn't started yet outlive us: it will be in a session of
// its own, where no signal of a terminal reaches it.
func Detach(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
}

// dieTimeout is how long a killed process may take to be gone.
const dieTimeout = 10 * time.Second

// End asks p to end, by SIGTERM, kills it after grace, and returns when it is gone. An
// error means that it may still live.
func End(ctx context.Context, p banger.Process, grace time.Duration) error {
	if err := Kill(p, unix.SIGTERM); err == nil && ended(ctx, p, grace) {
		return nil
	}
	if err := Kill(p, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	if !ended(ctx, p, dieTimeout) {
		return errors.Join(ctx.Err(), banger.Errorf(banger.CodeTimeout, "process %d was killed and doesn't end", p.PID))
	}
	return nil
}

// ended waits at most d for a process to end, and reports whether it did.
func ended(ctx context.Context, p banger.Process, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return Wait(ctx, p) == nil
}

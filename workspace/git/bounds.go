package git

import (
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds are what a git may use at most that reads what a guest wrote.
type Bounds struct {
	Memory int64         // bytes of its own; files that it maps don't count
	File   int64         // bytes of the largest file it may write
	CPU    time.Duration // of processor time, in whole seconds
}

// start starts a command that may use so much. What it is to read must come by its
// standard input: the bounds hold a moment after it began.
func start(cmd *exec.Cmd, b *Bounds) error {
	if err := cmd.Start(); err != nil || b == nil {
		return err
	}
	for what, most := range map[int]int64{unix.RLIMIT_DATA: b.Memory, unix.RLIMIT_FSIZE: b.File, unix.RLIMIT_CPU: int64(b.CPU / time.Second)} {
		if most == 0 {
			continue
		}
		// One that has ended can't be bound any more, and needn't.
		if err := unix.Prlimit(cmd.Process.Pid, what, &unix.Rlimit{Cur: uint64(most), Max: uint64(most)}, nil); err != nil && err != unix.ESRCH {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return err
		}
	}
	return nil
}

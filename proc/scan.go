package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// Scan looks at every process for the one that is. It finds what nobody
// recorded: its parent died before it could, or its socket was removed.
func Scan(is func(pid int) bool) (banger.Process, bool) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return banger.Process{}, false
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !is(pid) {
			continue
		}
		// The process may have ended and its PID been taken since.
		if p, err := Read(pid); err == nil && is(pid) {
			return p, true
		}
	}
	return banger.Process{}, false
}

// OwnArgs returns the arguments of a process of our own user that runs a program
// whose name begins as given.
func OwnArgs(pid int, program string) (argv []string, ok bool) {
	return Args(pid, program, os.Getuid())
}

// execTimeout is how long a process may take to become another program. Until it
// has that one's arguments it has none (load_elf_binary in the kernel's
// fs/binfmt_elf.c): 10 ms were seen, and who looks then must not miss it.
const execTimeout = time.Second

// Args is OwnArgs for another user id of ours. Arguments alone say nothing: anybody
// may choose theirs; nobody else may choose that id.
func Args(pid int, program string, uid int) (argv []string, ok bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	// " (deleted)" is appended when the file was replaced under a running process.
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil || !strings.HasPrefix(filepath.Base(exe), program) {
		return nil, false
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil || !bytes.Contains(status, fmt.Appendf(nil, "\nUid:\t%d\t%[1]d\t", uid)) {
		return nil, false
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	for end := time.Now().Add(execTimeout); err == nil && len(cmdline) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
		if _, err = os.Readlink(filepath.Join(dir, "exe")); err == nil { // a zombie has none, and no arguments either
			cmdline, err = os.ReadFile(filepath.Join(dir, "cmdline"))
		}
	}
	return strings.Split(string(bytes.TrimSuffix(cmdline, []byte{0})), "\x00"), err == nil
}

// dieTimeout is how long a killed process may take to be gone.
const dieTimeout = 10 * time.Second

// End asks this very process to end, by SIGTERM, kills it when it hasn't after
// grace, and returns when it is gone. An error means that it may live.
func End(ctx context.Context, p banger.Process, grace time.Duration) error {
	if err := Kill(p, unix.SIGTERM); err == nil && ended(ctx, p, grace) {
		return nil
	}
	if err := Kill(p, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	if !ended(ctx, p, dieTimeout) {
		return errors.Join(ctx.Err(), banger.Errorf(banger.CodeTimeout, "process %d doesn't end though killed", p.PID))
	}
	return nil
}

// ended waits for a process to end, for at most d, and tells whether it did.
func ended(ctx context.Context, p banger.Process, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return Wait(ctx, p) == nil
}

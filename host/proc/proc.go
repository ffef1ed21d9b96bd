// Package proc identifies processes for good, watches them end and signals
// them, so that a recycled PID is never touched. It owns the reading of
// /proc/PID/stat and the pidfd calls (pidfd_open(2)); it refuses to know what
// the processes are for.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

var bootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
})

// Read returns the identity of a living process. For one that has ended, even
// if nobody has waited for it yet, the error is os.ErrNotExist.
func Read(pid int) (banger.Process, error) {
	boot, err := bootID()
	if err != nil {
		return banger.Process{}, err
	}
	if pid <= 0 {
		return banger.Process{}, fmt.Errorf("process %d: %w", pid, os.ErrNotExist)
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("process %d: %w", pid, os.ErrNotExist)
	}
	if err != nil {
		return banger.Process{}, err
	}
	// The second field is the program's name in parentheses and may hold any
	// byte; the rest starts after the last one. Third: state; 22nd: start time.
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(f) < 20 {
		return banger.Process{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f)+2)
	}
	if s := f[0][0]; s == 'Z' || s == 'X' {
		return banger.Process{}, fmt.Errorf("process %d has ended: %w", pid, os.ErrNotExist)
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return banger.Process{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return banger.Process{PID: pid, StartTime: start, BootID: boot}, nil
}

// Self returns the identity of this process.
func Self() (banger.Process, error) { return Read(os.Getpid()) }

// Alive reports whether this very process lives.
func Alive(p banger.Process) bool {
	now, err := Read(p.PID)
	return err == nil && now == p
}

// open returns a pidfd of this very process, os.ErrNotExist when it is no more.
// The identity is checked after the pidfd is had: from then on it can't change.
func open(p banger.Process) (*os.File, error) {
	if p.PID <= 0 {
		return nil, fmt.Errorf("process %d: %w", p.PID, os.ErrNotExist)
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			err = os.ErrNotExist
		}
		return nil, fmt.Errorf("process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !Alive(p) {
		_ = f.Close() // nothing was written to it
		return nil, fmt.Errorf("process %d: %w", p.PID, os.ErrNotExist)
	}
	return f, nil
}

// Kill sends a signal to this very process. One that has ended already needs
// none: that is success.
func Kill(p banger.Process, sig unix.Signal) error {
	f, err := open(p)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.PidfdSendSignal(int(f.Fd()), sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// Wait returns when this very process has ended, at once when it has already.
// An error means that ctx ended first, or that the process can't be watched.
// It works on any process and takes no exit status from whoever waits for it.
func Wait(ctx context.Context, p banger.Process) error {
	f, err := open(p)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	// A pidfd polls as readable when its process has ended.
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 && err == nil
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Package proc identifies processes for good, waits for their end and signals them. A
// process that got the PID of an ended one is never touched. It owns the reading of
// /proc/PID/stat and the pidfd calls (pidfd_open(2)), and knows nothing of what the
// processes are for.
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

// BootID is the id of this boot of the host (random(4)).
var BootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
})

// KernelRelease is the release of the host's kernel (uname(2)).
func KernelRelease() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b)), err
}

// Read returns the identity of a living process. os.ErrNotExist when it has ended, even
// if nobody has waited for it yet.
func Read(pid int) (banger.Process, error) {
	boot, err := BootID()
	if err != nil {
		return banger.Process{}, err
	}
	if pid <= 0 {
		return banger.Process{}, gone(pid)
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, unix.ESRCH) {
		err = gone(pid)
	}
	if err != nil {
		return banger.Process{}, err
	}
	f := fieldsOf(stat) // third: state; 22nd: start time
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

// fieldsOf returns the fields of a process' stat from the third on (proc_pid_stat(5)).
// The second one is the program's name in parentheses and may hold any byte; the rest
// starts after the last parenthesis.
func fieldsOf(stat []byte) [][]byte { return bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) }

// Self returns the identity of this process.
func Self() (banger.Process, error) { return Read(os.Getpid()) }

// Alive reports whether p lives.
func Alive(p banger.Process) bool {
	now, err := Read(p.PID)
	return err == nil && now == p
}

// open returns a pidfd of p; os.ErrNotExist when p has ended. It checks the identity
// after it has the pidfd, which always stands for the same process.
func open(p banger.Process) (*os.File, error) {
	if p.PID <= 0 {
		return nil, gone(p.PID)
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
		return nil, gone(p.PID)
	}
	return f, nil
}

func gone(pid int) error { return fmt.Errorf("process %d: %w", pid, os.ErrNotExist) }

// TakeFile duplicates a descriptor of p (pidfd_getfd(2)).
func TakeFile(p banger.Process, fd int) (*os.File, error) {
	f, err := open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	got, err := unix.PidfdGetfd(int(f.Fd()), fd, 0)
	if err != nil {
		return nil, fmt.Errorf("take descriptor %d of process %d: %w", fd, p.PID, err)
	}
	return os.NewFile(uintptr(got), "taken"), nil
}

// Namespace opens a namespace of p by its name in /proc/PID/ns (namespaces(7)).
func Namespace(p banger.Process, name string) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", p.PID, name))
	if err == nil && !Alive(p) {
		err = errors.Join(gone(p.PID), f.Close())
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Kill sends a signal to p. It succeeds when p has ended already.
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

// Wait waits until p has ended. An error means that ctx ended first, or that p can't be
// watched. p needn't be a child, and its parent still gets its exit status.
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

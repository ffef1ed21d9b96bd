// Package dial makes and takes connections in a guest for its users: each with the rights
// of the user it is for, so that a socket's file and its peer see that user and not the
// agent.
//
// It knows nothing of the streams that carry them.
package dial

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/account"
)

// as runs f with a user's rights: on a thread of its own, whose effective user and groups
// are the user's and which ends with f. It has no capabilities then. Its real and saved
// user stay the agent's, so the user can neither kill nor trace the agent. f must stay on
// its goroutine.
//
// A process of the user would do the same. It would cost each connection 20 ms in an
// emulated guest, and a thousand connections all of a small guest's memory.
func as(who account.Account, f func() error) error {
	if os.Geteuid() != 0 {
		if int(who.UID) != os.Geteuid() {
			return guest.Errorf(guest.CodeInvalid, "can't do it as %s: the agent isn't root", who.Name)
		}
		return f()
	}
	if who.UID == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: so the thread ends with this goroutine
		if unix.Gettid() == os.Getpid() {
			// The first thread can't end. It waits here while another one is used.
			defer runtime.UnlockOSThread()
			done <- as(who, f)
			return
		}
		err := become(who)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// become gives the present thread alone a user's rights (credentials(7)). The functions of
// packages syscall and unix would change all threads.
func become(who account.Account) error {
	groups := unsafe.Pointer(unsafe.SliceData(who.Groups))
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(who.Groups)), uintptr(groups), 0); e != 0 {
		return fmt.Errorf("setgroups: %w", e)
	}
	const keep = ^uintptr(0)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(who.GID), keep); e != 0 {
		return fmt.Errorf("setresgid: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(who.UID), keep); e != 0 {
		return fmt.Errorf("setresuid: %w", e)
	}
	return nil
}

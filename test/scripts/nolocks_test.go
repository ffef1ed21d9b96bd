package tests_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withoutLocks becomes the command, for which, and for all that it starts, no file
// can be locked: the kernel answers ENOLCK, as on NFS whose lock manager is missing.
func withoutLocks(command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread() // a filter is a thread's; exec keeps this one's
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		give  = unix.BPF_RET | unix.BPF_K
		nr    = 0  // of struct seccomp_data (linux/seccomp.h): the system call,
		arg1  = 24 // and the lower half of its second argument
	)
	filter := []unix.SockFilter{
		{Code: load, K: nr},
		{Code: equal, K: unix.SYS_FLOCK, Jt: 7},
		{Code: equal, K: unix.SYS_FCNTL, Jf: 5},
		{Code: load, K: arg1},
		{Code: equal, K: unix.F_SETLK, Jt: 4},
		{Code: equal, K: unix.F_SETLKW, Jt: 3},
		{Code: equal, K: unix.F_OFD_SETLK, Jt: 2},
		{Code: equal, K: unix.F_OFD_SETLKW, Jt: 1},
		{Code: give, K: unix.SECCOMP_RET_ALLOW},
		{Code: give, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOLCK)},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return syscall.Exec(path, command, os.Environ())
}

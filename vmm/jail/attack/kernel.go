package attack

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

var kernel = []attempt{
	{"the kernel", "each number of a system call that isn't on the list", everyCall},
	{"the kernel", "system calls by the entry for 32-bit programs", oldEntry},
	{"the kernel", "system calls of the x32 kind", call(x32Bit | unix.SYS_GETPID)},
	{"the kernel", "namespaces of its own (unshare)", all(
		call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER), call(unix.SYS_UNSHARE, unix.CLONE_NEWNS), call(unix.SYS_UNSHARE, unix.CLONE_NEWNET), call(unix.SYS_UNSHARE, unix.CLONE_NEWPID),
		call(unix.SYS_UNSHARE, unix.CLONE_NEWIPC), call(unix.SYS_UNSHARE, unix.CLONE_NEWUTS), call(unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP), call(unix.SYS_UNSHARE, unix.CLONE_NEWTIME))},
	{"the kernel", "namespaces of its own (clone)", all(clones(unix.CLONE_NEWUSER), clones(unix.CLONE_NEWNET), clones(unix.CLONE_NEWUSER|unix.CLONE_NEWNS|unix.CLONE_NEWPID))},
	{"the kernel", "namespaces of its own (clone3)", func(Bait) (string, bool) {
		args := [11]uint64{unix.CLONE_NEWUSER, 0, 0, 0, uint64(unix.SIGCHLD)}
		return forked(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))
	}},
	{"the kernel", "namespaces of others (setns)", func(Bait) (string, bool) {
		fd, err := unix.PidfdOpen(1, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNS)
		}
		return failed(err)
	}},
	{"the kernel", "be another user (setuid, setgid, setgroups)", all(
		call(unix.SYS_SETUID, 0), call(unix.SYS_SETGID, 0), call(unix.SYS_SETRESUID, 0, 0, 0), call(unix.SYS_SETGROUPS, 0, 0))},
	{"the kernel", "capabilities", capabilities},
	{"the kernel", "look into it (bpf, perf_event_open, userfaultfd, syslog)", all(
		call(unix.SYS_BPF, unix.BPF_MAP_CREATE, bytesOf(&mapAttr), 72), call(unix.SYS_PERF_EVENT_OPEN, bytesOf(&perfAttr), 0, all1s, all1s, 0),
		call(unix.SYS_USERFAULTFD, 1), call(unix.SYS_SYSLOG, 10, 0, 0))},
	{"the kernel", "change it (modules, kexec, swap, clock, accounting, host name, reboot)", all(
		call(unix.SYS_FINIT_MODULE, 0, bytesOf(new(byte)), 0), call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0), call(unix.SYS_SWAPON, bytesOf(&slash), 0), call(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, bytesOf(&unix.Timespec{Sec: 1})),
		call(unix.SYS_ACCT, 0), call(unix.SYS_SETHOSTNAME, bytesOf(&slash), 1), call(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_CAD_ON))},
	{"the kernel", "the hardware (iopl, ioperm)", all(call(unix.SYS_IOPL, 3), call(unix.SYS_IOPERM, 0x70, 1, 1))},
}

const (
	x32Bit            = 0x40000000
	numbers           = 1024 // above all that the kernel has
	uretprobe, uprobe = 335, 336
	callWait          = 10_000 // ms for a call of a child to return, on a busy host; a filter answers at once
	openWait          = 200    // where there is no filter, as some calls never return then
)

var (
	slash    = [2]byte{'/', 0}
	mapAttr  = [18]uint32{2, 4, 4, 1}                                                                         // an array
	perfAttr = [16]uint64{uint64(unix.PERF_TYPE_SOFTWARE) | 128<<32, 0, 0, 0, 0, 1<<5 | 1<<6 /* user only */} // the CPU clock
)

func int80(nr uint32) int32

// fork returns 0 in the child. That has one thread, and no runtime that works: it may only make system calls,
// in functions that don't look whether their stack must grow. That look is where the runtime takes
// the processor away, and it may have been about to.
func fork(flags uintptr) (pid uintptr, errno unix.Errno) {
	pid, _, errno = unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	return pid, errno
}

//go:nosplit
func exit(status uintptr) {
	for {
		_, _, _ = unix.RawSyscall6(unix.SYS_EXIT_GROUP, status, 0, 0, 0, 0, 0)
	}
}

func wait(pid uintptr) (s unix.WaitStatus) {
	for {
		if _, err := unix.Wait4(int(pid), &s, 0, nil); err != unix.EINTR {
			return s
		}
	}
}

func clones(flags uintptr) func(Bait) (string, bool) {
	return func(Bait) (string, bool) { return forked(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0) }
}

// forked makes a call that may return twice.
func forked(nr, a, b uintptr) (string, bool) {
	pid, _, errno := unix.RawSyscall6(nr, a, b, 0, 0, 0, 0)
	if errno != 0 {
		return failed(errno)
	}
	if pid == 0 {
		exit(0)
	}
	wait(pid)
	return "succeeded", true
}

// everyCall makes all calls that aren't allowed, with arguments that mean nothing. A filter answers
// without looking at them; what else comes back came from the kernel, and so does what never returns.
func everyCall(b Bait) (string, bool) {
	// Filters never see the first two: the kernel puts them into programs itself, and ends
	// whoever else makes them (Linux 6.11, seccomp_uprobe_exception in its kernel/seccomp.c).
	skip := [numbers]bool{uretprobe: true, uprobe: true}
	for _, nr := range b.Allowed.Calls {
		skip[nr] = true
	}
	var refused [numbers]bool
	reached := 0
	for next := 0; next < numbers; next++ {
		last, err := from(next, &skip, &refused, reached > 0)
		if err != nil {
			return "the attack can't fork: " + err.Error(), true
		}
		for ; next <= last && next < numbers; next++ {
			if !skip[next] && !refused[next] {
				reached++
			}
		}
		for next < numbers && skip[next] {
			next++
		}
		if next < numbers { // it didn't return
			reached++
		}
	}
	if reached > 0 {
		return fmt.Sprintf("%d reach it", reached), true
	}
	return "EPERM", false
}

// from has a child make the calls from one on. It returns the last that came back, and notes which were
// refused. The child may have become two.
func from(first int, skip, refused *[numbers]bool, open bool) (last int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	defer unix.Close(p[0])
	pid, errno := fork(0)
	if errno != 0 {
		_ = unix.Close(p[1])
		return 0, errno
	}
	if pid == 0 {
		sweep(first, skip, uintptr(p[1]))
	}
	_ = unix.Close(p[1])
	last = first - 1
	var said [4]byte
	for {
		ready := []unix.PollFd{{Fd: int32(p[0]), Events: unix.POLLIN}}
		patience := callWait
		if open {
			patience = openWait
		}
		if n, err := unix.Poll(ready, patience); err == unix.EINTR {
			continue
		} else if err != nil || n == 0 {
			break
		}
		if n, err := unix.Read(p[0], said[:]); err != nil || n != len(said) {
			break
		}
		nr, errno := int(said[0])|int(said[1])<<8, unix.Errno(int(said[2])|int(said[3])<<8)
		last = max(last, nr)
		refused[nr] = errno == unix.EPERM
		open = open || !refused[nr]
	}
	_ = unix.Kill(int(pid), unix.SIGKILL)
	wait(pid)
	return last, nil
}

// sweep runs in a child.
//
//go:nosplit
func sweep(from int, skip *[numbers]bool, to uintptr) {
	var said [4]byte
	for nr := from; nr < numbers; nr++ {
		if skip[nr] {
			continue
		}
		_, _, errno := unix.RawSyscall6(uintptr(nr), all1s, all1s, all1s, all1s, all1s, all1s)
		said = [4]byte{byte(nr), byte(nr >> 8), byte(errno), byte(errno >> 8)}
		_, _, _ = unix.RawSyscall6(unix.SYS_WRITE, to, uintptr(unsafe.Pointer(&said[0])), 4, 0, 0, 0)
	}
	exit(0)
}

// oldEntry asks for the process id (20) by int 0x80. A kernel without that entry ends the child.
func oldEntry(Bait) (string, bool) {
	pid, errno := fork(0)
	if errno != 0 {
		return failed(errno)
	}
	if pid == 0 {
		defaultAction(unix.SIGSEGV)
		if got := int80(20); got < 0 {
			exit(uintptr(-got))
		}
		exit(0)
	}
	switch s := wait(pid); {
	case s.Signaled():
		return "this kernel has none", false
	case s.ExitStatus() == 0:
		return "succeeded", true
	default:
		return failed(unix.Errno(s.ExitStatus()))
	}
}

// defaultAction undoes what the runtime does at a signal.
//
//go:nosplit
func defaultAction(s unix.Signal) {
	var action [4]uint64 // struct sigaction of the kernel's
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}

// capabilities finds out whether it has any, and takes some.
func capabilities(Bait) (string, bool) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	if err := unix.Capget(&header, &has[0]); err == nil && has[0].Effective|has[0].Permitted|has[1].Effective|has[1].Permitted != 0 {
		return fmt.Sprintf("it has %#x", uint64(has[1].Permitted)<<32|uint64(has[0].Permitted)), true
	}
	for c := range uintptr(41) {
		if has, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, c, 0, 0, 0, 0); errno == 0 && has == 1 {
			return fmt.Sprintf("it may get capability %d", c), true
		}
	}
	has[0].Effective, has[0].Permitted = 1<<unix.CAP_SYS_ADMIN, 1<<unix.CAP_SYS_ADMIN
	return failed(unix.Capset(&header, &has[0]))
}

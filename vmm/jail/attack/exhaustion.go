package attack

import (
	"fmt"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var exhaustion = []attempt{
	{"using things up", "processes", forkBomb},
	{"using things up", "memory of its own", private},
	{"using things up", "large memory that is shared and has no file", func(Bait) (string, bool) {
		_, err := unix.MmapPtr(-1, 0, nil, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
		return failed(err)
	}},
	{"using things up", "memory that can't be swapped (mlock)", call(unix.SYS_MLOCK, uintptr(unsafe.Pointer(&ring)), 1<<20)},
	{"using things up", "room in /tmp", scratch},
	{"using things up", "a file without end", hugeFile},
	{"using things up", "a file of memory without end (memfd_create)", hugeMemory},
	{"using things up", "descriptors", descriptors},
	{"using things up", "a dump of its memory on the host's disk", dump},
	{"using things up", "higher limits", func(b Bait) (string, bool) {
		for _, what := range []int{unix.RLIMIT_FSIZE, unix.RLIMIT_DATA, unix.RLIMIT_NPROC, unix.RLIMIT_NOFILE, unix.RLIMIT_MEMLOCK, unix.RLIMIT_CORE} {
			if err := unix.Prlimit(0, what, &unix.Rlimit{Cur: 1 << 50, Max: 1 << 50}, nil); err == nil {
				return fmt.Sprintf("limit %d is gone", what), true
			} else if err != unix.EPERM {
				return failed(err)
			}
		}
		return "EPERM", false
	}},
}

// beyond says how far something went, and whether that is too far.
func beyond(got, bound int64, err error) (string, bool) {
	name, _ := failed(err)
	if err == nil || got > bound {
		return fmt.Sprintf("%d, in place of %d", got, bound), true
	}
	return name, false
}

func forkBomb(b Bait) (string, bool) {
	var children int64
	var err error
	for children <= int64(b.Allowed.Processes) {
		pid, errno := fork(0)
		if errno != 0 {
			err = errno
			break
		}
		if pid == 0 {
			for { // until it is killed
				_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
			}
		}
		children++
	}
	_ = unix.Kill(-1, unix.SIGKILL) // all but us and the first process
	for err := error(nil); err == nil || err == unix.EINTR; {
		_, err = unix.Wait4(-1, nil, 0, nil)
	}
	return beyond(children, int64(b.Allowed.Processes), err)
}

func private(b Bait) (string, bool) {
	const chunk = 16 << 20
	var has int64
	var at []unsafe.Pointer
	var err error
	for err == nil && has <= b.Allowed.Data {
		var p unsafe.Pointer
		if p, err = unix.MmapPtr(-1, 0, nil, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE); err == nil {
			at = append(at, p)
			has += chunk
		}
	}
	for _, p := range at {
		_ = unix.MunmapPtr(p, chunk)
	}
	return beyond(has, b.Allowed.Data, err)
}

func scratch(b Bait) (string, bool) {
	var has int64
	var err error
	chunk := make([]byte, 1<<20)
	for file := 0; err == nil && has <= b.Allowed.Scratch; file++ {
		var fd int
		name := fmt.Sprintf("/tmp/%d", file)
		if fd, err = unix.Open(name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600); err != nil {
			break
		}
		defer func() { _ = unix.Unlink(name) }()
		for size := int64(0); err == nil && size < b.Allowed.FileSize/2; {
			var n int
			n, err = unix.Write(fd, chunk)
			has += int64(max(n, 0))
			size += int64(max(n, 0))
			if has > b.Allowed.Scratch {
				break
			}
		}
		_ = unix.Close(fd)
	}
	return beyond(has, b.Allowed.Scratch, err)
}

func hugeFile(b Bait) (string, bool) {
	signal.Ignore(syscall.SIGXFSZ)
	defer func() { _ = unix.Unlink("/tmp/huge") }()
	fd, err := unix.Open("/tmp/huge", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return failed(err)
	}
	defer unix.Close(fd)
	return failed(unix.Ftruncate(fd, b.Allowed.FileSize+1))
}

func hugeMemory(b Bait) (string, bool) {
	fd, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC)
	if err != nil {
		return failed(err)
	}
	defer unix.Close(fd)
	return failed(unix.Ftruncate(fd, b.Allowed.FileSize+1))
}

func descriptors(b Bait) (string, bool) {
	var has int64
	var err error
	var open []int
	for err == nil && has <= int64(b.Allowed.Files) {
		var fd int
		if fd, err = unix.Dup(1); err == nil {
			open = append(open, fd)
			has++
		}
	}
	for _, fd := range open {
		_ = unix.Close(fd)
	}
	return beyond(has, int64(b.Allowed.Files), err)
}

// dump ends a child by a signal that dumps its memory.
func dump(Bait) (string, bool) {
	pid, errno := fork(0)
	if errno != 0 {
		return failed(errno)
	}
	if pid == 0 {
		defaultAction(unix.SIGABRT)
		self, _, _ := unix.RawSyscall6(unix.SYS_GETPID, 0, 0, 0, 0, 0, 0)
		_, _, _ = unix.RawSyscall6(unix.SYS_KILL, self, uintptr(unix.SIGABRT), 0, 0, 0, 0)
		exit(0)
	}
	if s := wait(pid); s.CoreDump() || !s.Signaled() {
		return fmt.Sprintf("status %#x", int(s)), true
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_CORE, nil, &limit); err != nil || limit.Max != 1 {
		return fmt.Sprintf("a program of the host's would get it: the limit is %d", limit.Max), true
	}
	return "none was made", false
}

package attack

import (
	"encoding/json"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

var processes = []attempt{
	{"processes", "have one of the host as its parent", func(Bait) (string, bool) {
		if parent := unix.Getppid(); parent != 1 {
			return fmt.Sprintf("process %d", parent), true
		}
		return "only the jail's first process", false
	}},
	{"processes", "send a signal to one of the host", func(b Bait) (string, bool) { return failed(unix.Kill(b.PID, 0)) }},
	{"processes", "that, by other calls (tkill, sigqueue, pidfd)", func(b Bait) (string, bool) {
		pid := uintptr(b.PID)
		return all(call(unix.SYS_TKILL, pid, 0), call(unix.SYS_TGKILL, pid, pid, 0), call(unix.SYS_RT_SIGQUEUEINFO, pid, 0, bytesOf(new([16]uint64))), call(unix.SYS_PIDFD_OPEN, pid, 0))(b)
	}},
	{"processes", "kill the jail's first process", func(Bait) (string, bool) {
		// Sent or refused: if it ended, so would we.
		var got string
		for _, s := range []unix.Signal{unix.SIGHUP, unix.SIGSEGV, unix.SIGSTOP, unix.SIGKILL} {
			got, _ = failed(unix.Kill(1, s))
		}
		if got != "succeeded" {
			return got, false
		}
		return "it lives on", false
	}},
	{"processes", "trace one of the host (ptrace)", func(b Bait) (string, bool) {
		return all(call(unix.SYS_PTRACE, ptraceSeize, uintptr(b.PID)), call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, uintptr(b.PID)))(b)
	}},
	{"processes", "trace the jail's first process", all(call(unix.SYS_PTRACE, ptraceSeize, 1), call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1))},
	{"processes", "read and write another's memory", func(b Bait) (string, bool) {
		var there [8]byte
		local := unix.Iovec{Base: &there[0], Len: 8}
		remote := unix.RemoteIovec{Base: uintptr(unsafe.Pointer(&there[0])), Len: 8}
		var tries []func(Bait) (string, bool)
		for _, pid := range []uintptr{1, uintptr(b.PID)} {
			for _, nr := range []uintptr{unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV} {
				tries = append(tries, call(nr, pid, bytesOf(&local), 1, bytesOf(&remote), 1, 0))
			}
		}
		return all(tries...)(b)
	}},
	{"processes", "take another's descriptor (pidfd_getfd)", func(Bait) (string, bool) {
		fd, err := unix.PidfdOpen(1, 0)
		if err == nil {
			_, err = unix.PidfdGetfd(fd, 0, 0)
		}
		return failed(err)
	}},
	{"processes", "change another's limits, priority, processors", func(b Bait) (string, bool) {
		var tries []func(Bait) (string, bool)
		for _, pid := range []uintptr{1, uintptr(b.PID)} {
			tries = append(tries, call(unix.SYS_PRLIMIT64, pid, unix.RLIMIT_NOFILE, 0, bytesOf(new(unix.Rlimit))),
				call(unix.SYS_SCHED_SETAFFINITY, pid, 8, bytesOf(&[1]uint64{1})), call(unix.SYS_SETPRIORITY, 0, pid, 19),
				call(unix.SYS_IOPRIO_SET, 1, pid, 3<<13))
		}
		return all(tries...)(b)
	}},
	{"processes", "look at another (kcmp, get_robust_list, move_pages)", func(b Bait) (string, bool) {
		var head, size uintptr
		pid := uintptr(b.PID)
		return all(call(unix.SYS_KCMP, 1, pid, 0, 0, 0), call(unix.SYS_GET_ROBUST_LIST, pid, bytesOf(&head), bytesOf(&size)), call(unix.SYS_MIGRATE_PAGES, pid, 0, 0, 0))(b)
	}},
}

const ptraceSeize = 0x4206 // PTRACE_SEIZE

var outside = []attempt{
	{"network", "a socket that isn't AF_UNIX, of every family and kind", families},
	{"network", "connect to a port of the host", func(b Bait) (string, bool) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: b.Port, Addr: [4]byte{127, 0, 0, 1}})
		}
		return failed(err)
	}},
	{"network", "connect to an abstract socket of the host", func(b Bait) (string, bool) { return connects("@" + b.Abstract) }},
	{"network", "see the names of the host's abstract sockets", func(b Bait) (string, bool) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return failed(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + b.Abstract}); err != nil {
			name, _ := failed(err)
			return name, err == unix.EADDRINUSE
		}
		return "the name is free", false
	}},
	{"network", "connect to a socket in a directory of the host", func(b Bait) (string, bool) { return connects(b.Socket) }},
	{"network", "pretend to be another process or user (SCM_CREDENTIALS)", all(pretend(unix.Ucred{Pid: 1, Uid: uint32(unix.Getuid()), Gid: uint32(unix.Getgid())}), pretend(unix.Ucred{Pid: int32(unix.Getpid())}))},
	{"network", "io_uring", call(unix.SYS_IO_URING_SETUP, 8, bytesOf(&ring))},
	{"memory of others", "attach shared memory of the host (shmat)", func(b Bait) (string, bool) {
		if b.Memory == 0 {
			return "the host has none", false
		}
		return failed(syscall6(unix.SYS_SHMAT, [6]uintptr{uintptr(b.Memory), 0, unix.SHM_RDONLY}))
	}},
	{"memory of others", "make such (shmget, semget, msgget, mq_open)", all(
		call(unix.SYS_SHMGET, 0x62616e67, 4096, 0o600|unix.IPC_CREAT), call(unix.SYS_SEMGET, 0x62616e67, 1, 0o600|unix.IPC_CREAT), call(unix.SYS_MSGGET, 0x62616e67, 0o600|unix.IPC_CREAT),
		func(Bait) (string, bool) {
			name := []byte("banger\x00")
			return failed(syscall6(unix.SYS_MQ_OPEN, [6]uintptr{uintptr(unsafe.Pointer(&name[0])), unix.O_CREAT | unix.O_RDWR, 0o600, 0}))
		})},
	{"memory of others", "read a key of the user (keyctl)", func(b Bait) (string, bool) {
		if b.Key == 0 {
			return "the host has none", false
		}
		buf := make([]byte, 64)
		_, err := unix.KeyctlBuffer(unix.KEYCTL_READ, b.Key, buf, 0)
		return failed(err)
	}},
	{"memory of others", "search and add keys", all(
		func(Bait) (string, bool) {
			_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
			return failed(err)
		},
		func(Bait) (string, bool) {
			_, err := unix.AddKey("user", "banger", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
			return failed(err)
		},
		func(Bait) (string, bool) {
			_, err := unix.RequestKey("user", "banger", "", unix.KEY_SPEC_PROCESS_KEYRING)
			return failed(err)
		})},
}

var ring [120]byte // struct io_uring_params

// families tries all sockets that there are.
func families(b Bait) (got string, hole bool) {
	errors := map[string]bool{}
	for family := range 50 {
		if family == unix.AF_UNIX {
			continue
		}
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			fd, err := unix.Socket(family, kind, 0)
			if err == nil {
				_ = unix.Close(fd)
				return fmt.Sprintf("a socket of family %d, kind %d", family, kind), true
			}
			name, _ := failed(err)
			errors[name] = true
		}
	}
	for name := range errors {
		got = name // one of them: without a filter there are many
	}
	if len(errors) > 1 {
		got = "several errors"
	}
	return got, false
}

func pretend(to unix.Ucred) func(Bait) (string, bool) {
	return func(Bait) (string, bool) {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return failed(err)
		}
		defer func() { _, _ = unix.Close(p[0]), unix.Close(p[1]) }()
		return failed(unix.Sendmsg(p[0], []byte{0}, unix.UnixCredentials(&to), nil, 0))
	}
}

func connects(path string) (string, bool) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return failed(err)
	}
	defer unix.Close(fd)
	return failed(unix.Connect(fd, &unix.SockaddrUnix{Name: path}))
}

// Describe is a Bait as Main's argument.
func (b Bait) Describe() (string, error) {
	data, err := json.Marshal(b)
	return string(data), err
}

// Table writes results as a table of Markdown, with a column for each list. All lists are of the
// same attempts.
func Table(titles []string, lists ...[]Result) string {
	var s strings.Builder
	s.WriteString("| | what is tried |")
	for _, t := range titles {
		s.WriteString(" " + t + " |")
	}
	s.WriteString("\n|---|---|" + strings.Repeat("---|", len(titles)) + "\n")
	area := ""
	for i, r := range lists[0] {
		if r.Area == area {
			r.Area = ""
		} else {
			area = r.Area
		}
		fmt.Fprintf(&s, "| %s | %s |", r.Area, r.What)
		for _, l := range lists {
			fmt.Fprintf(&s, " %s |", l[i].Got)
		}
		s.WriteString("\n")
	}
	return s.String()
}

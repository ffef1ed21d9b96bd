package jail

import (
	"maps"
	"slices"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// A filter is a list of what may be called: all else fails with EPERM, on any
// architecture's table. It never kills: a process that is killed by SIGSYS would end a whole VM because
// of what one program in its guest does, and User-mode Linux lives on a TRAP of its own, which that
// would outrank (seccomp(2)).

// The names of Filters.
const (
	UML    = "uml"    // User-mode Linux, by ptrace(2) or by seccomp
	keeper = "keeper" // the jail's first process
)

// profile is one filter.
type profile struct {
	calls []string              // allowed with any arguments
	only  []argument            // allowed with these
	fails map[string]unix.Errno // what programs may ask for and do without, and the error at which they do
}

// argument allows a call if its arguments are such. Several for one call are alternatives.
type argument struct {
	call string
	are  seccomp.ArgumentConditions
}

func is(index uint32, how seccomp.Operation, value uint64) seccomp.Condition {
	return seccomp.Condition{Argument: index, Operation: how, Value: value}
}

// oneOf allows a call if an argument has one of the values.
func oneOf(call string, index uint32, values ...uint64) (list []argument) {
	for _, v := range values {
		list = append(list, argument{call, seccomp.ArgumentConditions{is(index, seccomp.Equal, v)}})
	}
	return list
}

const (
	newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	anyPersona    = 0xffffffff // asks which it is
	noRandomize   = 0x0040000  // ADDR_NO_RANDOMIZE (personality(2))
)

// ownMemory is any but large pieces that others can map and that have no file: nothing but a control group
// bounds all of those together. UML tries a small one (its seccomp mode).
var ownMemory = []argument{
	{"mmap", seccomp.ArgumentConditions{is(3, seccomp.BitsNotSet, unix.MAP_SHARED)}},
	{"mmap", seccomp.ArgumentConditions{is(3, seccomp.BitsNotSet, unix.MAP_ANONYMOUS)}},
	{"mmap", seccomp.ArgumentConditions{is(1, seccomp.LessOrEqual, 64<<10)}},
}

// profiles are all filters. What UML's has was seen in boots of systemd guests and of what
// they do, by ptrace and by seccomp.
var profiles = map[string]profile{
	UML: {
		calls: []string{
			"read", "write", "readv", "writev", "pread64", "pwrite64", "sendfile", "close", "close_range", "lseek", "dup", "dup2", "fcntl",
			"fstat", "newfstatat", "statx", "statfs", "access", "readlink", "getdents64", "openat", "mkdir", "rmdir", "unlink", "umask",
			"fsync", "fdatasync", "ftruncate", "fallocate", "memfd_create",
			"poll", "ppoll", "epoll_create", "epoll_create1", "epoll_wait", "epoll_pwait", "epoll_ctl", "eventfd2", "pipe2", "signalfd4",
			"munmap", "mprotect", "madvise", "mremap", "brk",
			"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "sigaltstack", "kill", "tgkill", "restart_syscall",
			"timer_create", "timer_settime", "timer_gettime", "timer_delete", "nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday",
			"connect", "bind", "listen", "accept4", "shutdown", "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg", "getsockopt", "setsockopt", "getsockname",
			"execve", "execveat", "wait4", "exit", "exit_group", "setsid", "futex", "sched_yield", "sched_getaffinity", "set_tid_address", "set_robust_list", "rseq",
			"getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "uname", "arch_prctl", "seccomp", "getrandom",
		},
		only: slices.Concat(
			ownMemory,
			[]argument{
				{"clone", seccomp.ArgumentConditions{is(0, seccomp.BitsNotSet, newNamespaces)}},
				{"prlimit64", seccomp.ArgumentConditions{is(0, seccomp.Equal, 0)}}, // its own
			},
			oneOf("socket", 0, unix.AF_UNIX),
			oneOf("socketpair", 0, unix.AF_UNIX),
			oneOf("personality", 0, 0, anyPersona, noRandomize),
			oneOf("prctl", 0, unix.PR_SET_PDEATHSIG, unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_SET_SECCOMP, unix.PR_SET_NO_NEW_PRIVS),
			// Only of children that ask for it: no PTRACE_ATTACH, no PTRACE_SEIZE.
			oneOf("ptrace", 0, unix.PTRACE_TRACEME, unix.PTRACE_PEEKUSR, unix.PTRACE_POKEUSR, unix.PTRACE_CONT, unix.PTRACE_KILL,
				unix.PTRACE_GETREGS, unix.PTRACE_SETREGS, unix.PTRACE_SYSCALL, ptraceOldOptions, unix.PTRACE_GETFPREGS, unix.PTRACE_SETFPREGS, unix.PTRACE_ARCH_PRCTL, ptraceSysemu, ptraceSysemuStep, unix.PTRACE_SETOPTIONS,
				unix.PTRACE_GETSIGINFO, unix.PTRACE_GETREGSET, unix.PTRACE_SETREGSET),
			oneOf("ioctl", 1, unix.TCGETS, unix.TCSETS, unix.TCSETSW, unix.TCSETSF, unix.TCGETS2, unix.TCSETS2, unix.TCSETSW2, unix.TCSETSF2, unix.TIOCGWINSZ, fionread, fionbio, fioclex, unix.BLKGETSIZE64, unix.BLKGETSIZE),
		),
		fails: map[string]unix.Errno{"clone3": unix.ENOSYS}, // its flags are in memory, where a filter can't see them: libraries take clone then
	},
	// Threads, but no processes; no files but those that it has or is sent.
	keeper: {
		calls: []string{
			"read", "write", "readv", "writev", "pread64", "pwrite64", "close", "lseek", "fcntl", "fstat", "fsync", "fallocate", "dup3",
			"poll", "ppoll", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "eventfd2", "pipe2",
			"mmap", "munmap", "mprotect", "madvise", "mremap", "mincore", "brk", "futex", "membarrier",
			"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "kill", "tgkill", "restart_syscall", "wait4", "waitid", "exit", "exit_group",
			"nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "timer_create", "timer_settime", "timer_delete", "sched_yield", "sched_getaffinity", "setitimer",
			"accept4", "listen", "shutdown", "sendto", "recvfrom", "sendmsg", "recvmsg", "getsockopt", "setsockopt", "getsockname", "getpeername",
			"getpid", "gettid", "getuid", "geteuid", "getrandom", "set_robust_list", "rseq", "uname",
		},
		only: slices.Concat(
			[]argument{{"clone", seccomp.ArgumentConditions{is(0, seccomp.BitsSet, unix.CLONE_THREAD)}}, {"prlimit64", seccomp.ArgumentConditions{is(0, seccomp.Equal, 0)}}},
			oneOf("socketpair", 0, unix.AF_UNIX),
			oneOf("prctl", 0, unix.PR_SET_NAME, unix.PR_SET_VMA),
		),
		fails: map[string]unix.Errno{"clone3": unix.ENOSYS},
	},
}

// Of ptrace(2) and ioctl(2), on amd64.
const (
	fionread         = 0x541b
	fionbio          = 0x5421
	fioclex          = 0x5451
	ptraceOldOptions = 21 // asked for by UML before 6.12, as are FPREGS and ARCH_PRCTL
	ptraceSysemu     = 31
	ptraceSysemuStep = 32
)

// load puts a filter on this thread, or on all, for good.
func (p profile) load(flag seccomp.FilterFlag) error {
	return seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: flag, Policy: p.policy()})
}

// numbers returns those of the calls that are answered by more than EPERM.
func (p profile) numbers() (list []int) {
	names := slices.Clone(p.calls)
	for _, a := range p.only {
		names = append(names, a.call)
	}
	for _, name := range slices.AppendSeq(names, maps.Keys(p.fails)) {
		list = append(list, arch.X86_64.SyscallNames[name])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (p profile) policy() seccomp.Policy {
	allow := seccomp.SyscallGroup{Action: seccomp.ActionAllow, Names: p.calls}
	for _, a := range p.only {
		allow.NamesWithCondtions = append(allow.NamesWithCondtions, seccomp.NameWithConditions{Name: a.call, Conditions: a.are})
	}
	groups := []seccomp.SyscallGroup{allow}
	for call, errno := range p.fails {
		groups = append(groups, seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(errno), Names: []string{call}})
	}
	return seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: groups}
}

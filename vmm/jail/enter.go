package jail

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// What the process that becomes the VMM has open; its ends of Spec.Pairs follow.
const (
	enterArg     = "--enter"
	enterSpecFD  = 3
	enterErrorFD = 4
	enterSelfFD  = 5 // banger-jail
	enterPairFD  = 6
)

// enter is the process that becomes the VMM. It returns only when that fails, which it has said by then.
func enter() {
	// A thread has its own capabilities, filters and affinity. The others end when this
	// one becomes the VMM.
	runtime.LockOSThread()
	// Out of the way of what the VMM is to have.
	status, err := unix.FcntlInt(enterErrorFD, unix.F_DUPFD_CLOEXEC, outOfWay)
	if err != nil {
		return // the first process sees that nothing runs
	}
	err = becomeVMM()
	_, _ = unix.Write(status, []byte(err.Error())) // whoever reads it may have died
}

// becomeVMM waits for a Spec, gives up all that the VMM mustn't have, and becomes it.
func becomeVMM() error {
	data, err := readSpec()
	if err != nil {
		return err
	}
	var s Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("the jail wasn't made: %w", err) // its first process has ended
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("this is not the jail's root but type %#x: %w", fs.Type, err)
	}
	program, err := unix.Open(s.Argv[0], unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.Argv[0], Err: err}
	}
	if program, err = unix.FcntlInt(uintptr(program), unix.F_DUPFD_CLOEXEC, outOfWay); err != nil {
		return err
	}
	for _, step := range confinement {
		if err := step.do(s); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return s.execute(program)
}

// step takes something from the process that becomes the VMM.
type step struct {
	what string
	do   func(Spec) error
}

// confinement is all that is taken, in this order.
var confinement = []step{
	{"descriptors", Spec.arrange},
	{"keys", func(Spec) error { return leaveKeys() }},
	{"processor", Spec.pin},
	{"addresses", Spec.fix},
	{"limits", Spec.limit},
	{"files", Spec.restrict},
	{"capabilities", func(Spec) error { return dropCapabilities() }},
	{"system calls", func(s Spec) error { return profiles[s.Filter].load(0) }},
}

// outOfWay is a descriptor above all that a VMM is given.
const outOfWay = 128

// readSpec reads without the runtime's poller, whose descriptors could get in the way.
func readSpec() (data []byte, err error) {
	if err := unix.SetNonblock(enterSpecFD, false); err != nil {
		return nil, err
	}
	buf := make([]byte, maxLine)
	for {
		switch n, err := unix.Read(enterSpecFD, buf); {
		case err == unix.EINTR:
		case err != nil || n == 0:
			return data, os.NewSyscallError("read", err)
		default:
			data = append(data, buf[:n]...)
		}
	}
}

// arrange puts the ends of pairs where the VMM looks for them, and closes
// all else when the VMM starts.
func (s Spec) arrange() error {
	for i := range s.Pairs {
		if err := unix.Dup3(enterPairFD+i, 3+i, 0); err != nil {
			return err
		}
	}
	return unix.CloseRange(uint(3+len(s.Pairs)), math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
}

// leaveKeys takes a session keyring of its own in place of the user's. A kernel without keys has none to
// leave.
func leaveKeys() error {
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) // one without a name
	if err == unix.ENOSYS {
		return nil
	}
	return err
}

func (s Spec) pin() error {
	if s.CPU == nil {
		return nil
	}
	var set unix.CPUSet
	set.Set(*s.CPU)
	return unix.SchedSetaffinity(0, &set)
}

func (s Spec) fix() error {
	if !s.NoRandomize {
		return nil
	}
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, noRandomize, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func (s Spec) limit() error {
	l := s.Limits
	for _, r := range []struct {
		what int
		most uint64
	}{
		{unix.RLIMIT_FSIZE, uint64(cmp.Or(l.FileSize, l.Scratch))},
		{unix.RLIMIT_DATA, uint64(cmp.Or(l.Data, 256<<20))},
		{unix.RLIMIT_NPROC, uint64(cmp.Or(l.Processes, 64))},
		{unix.RLIMIT_NOFILE, uint64(cmp.Or(l.Files, 256))},
		{unix.RLIMIT_MEMLOCK, 0},
		{rlimitMsgqueue, 0},
	} {
		if err := setLimit(r.what, r.most); err != nil {
			return fmt.Errorf("limit %d to %d: %w", r.what, r.most, err)
		}
	}
	return noCore()
}

const rlimitMsgqueue = 12 // RLIMIT_MSGQUEUE (getrlimit(2))

func setLimit(what int, most uint64) error {
	return unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most})
}

// noCore says that nobody may dump our memory. With a limit of 0 a program
// that core_pattern names would still get it; with 1 the kernel starts none (do_coredump in its
// fs/coredump.c).
func noCore() error { return setLimit(unix.RLIMIT_CORE, 1) }

// restrict lays Landlock over the root, where the kernel has it: a second wall behind the
// first. And it takes the program's name away, if that is to run once.
func (s Spec) restrict() error {
	rules := []landlock.Rule{landlock.RODirs("/").WithResolveUnix(), landlock.ROFiles(s.Argv[0])}
	if s.Limits.Scratch > 0 {
		rules = append(rules, landlock.RWDirs("/tmp"))
	}
	for _, f := range s.Files {
		if f.Writable {
			rules = append(rules, landlock.RWFiles(f.At).WithIoctlDev())
		}
	}
	ruleset, flags, err := landlock.V11.BestEffort().NewRulesetFD(rules...)
	if err != nil {
		return err
	}
	if s.Once {
		if err := unix.Unmount(s.Argv[0], unix.MNT_DETACH); err != nil {
			return &os.PathError{Op: "unmount", Path: s.Argv[0], Err: err}
		}
	}
	if ruleset < 0 {
		return nil // no Landlock here
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return errors.Join(ll.LandlockRestrictSelf(ruleset, flags), unix.Close(ruleset))
}

// Of prctl(2), see capabilities(7): being user 0 gives nothing, changing the user
// neither, and all that for good.
const secureBits = 0xef

// dropCapabilities gives up all, and every way to get one again.
func dropCapabilities() error {
	for c := range 64 {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			if err != unix.EINVAL || c == 0 { // EINVAL: the kernel knows no more
				return fmt.Errorf("capability %d: %w", c, err)
			}
			break
		}
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secureBits, 0, 0, 0); err != nil {
		return fmt.Errorf("secure bits: %w", err)
	}
	header, none := noCapabilities()
	return os.NewSyscallError("capset", unix.Capset(&header, &none[0]))
}

// execute becomes the VMM: by its descriptor, as it may have no name any more.
func (s Spec) execute(program int) error {
	argv, err := syscall.SlicePtrFromStrings(s.Argv)
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings(s.Env)
	if err != nil {
		return err
	}
	empty := []byte{0}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(program), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("%s: %w", s.Argv[0], errno)
}

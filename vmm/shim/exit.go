package shim

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger"
)

// seen is what was seen of a guest that may be ending.
type seen struct {
	verb string          // the guest's init's own last word, from the agent
	kind banger.ExitKind // the kernel's last word on the console
	line string          // that line
}

// trace collects it while the VM runs.
type trace struct {
	mu   sync.Mutex
	seen seen
}

// haltedWord is the only one of a kernel's last words after which its VMM lives.
const haltedWord = "reboot: System halted"

// lastWord says what a console line means: the kernel prints these at level
// emerg, so that "quiet" doesn't hide them (kernel/reboot.c, kernel/panic.c).
func lastWord(line string) banger.ExitKind {
	if strings.HasPrefix(line, "[") {
		if _, rest, ok := strings.Cut(line, "] "); ok {
			line = rest
		}
	}
	switch {
	case strings.HasPrefix(line, "Kernel panic - not syncing"):
		return banger.ExitPanic
	case strings.HasPrefix(line, "reboot: Restarting system"):
		return banger.ExitReboot
	case strings.HasPrefix(line, "reboot: Power down"):
		return banger.ExitPoweroff
	case strings.HasPrefix(line, haltedWord):
		return banger.ExitHalt
	}
	return ""
}

// verbs are the guest's words for its end.
var verbs = map[string]banger.ExitKind{
	"poweroff": banger.ExitPoweroff,
	"reboot":   banger.ExitReboot,
	"halt":     banger.ExitHalt,
}

// ownSignals are those by which a program ends itself, not another it.
var ownSignals = []syscall.Signal{
	syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGSYS, syscall.SIGTRAP,
}

// evidence is all that is known about an end.
type evidence struct {
	seen
	waited bool
	status syscall.WaitStatus
	words  string // the VMM's last
}

// judge names the end. The guest's own account comes first: a VMM that is told
// to quit after its guest has powered off was not killed.
func (e evidence) judge() banger.Exit {
	exit := banger.Exit{Kind: banger.ExitUnknown, Status: -1}
	if e.waited {
		exit.Status = e.status.ExitStatus()
	}
	if e.status.Signaled() && e.waited {
		exit.Status = 128 + int(e.status.Signal())
	}
	switch {
	case e.kind == banger.ExitPanic:
		exit.Kind, exit.Detail = e.kind, e.line
	case verbs[e.verb] != "":
		exit.Kind = verbs[e.verb]
	case e.kind != "":
		exit.Kind = e.kind
	case e.waited && e.status.Signaled() && slices.Contains(ownSignals, e.status.Signal()):
		exit.Kind, exit.Detail = banger.ExitFailed, unix.SignalName(e.status.Signal())+meaning(e.status.Signal())+": "+e.words
	case e.waited && e.status.Signaled():
		exit.Kind, exit.Detail = banger.ExitKilled, unix.SignalName(e.status.Signal())
	case e.waited && e.status.ExitStatus() != 0:
		exit.Kind, exit.Detail = banger.ExitFailed, e.words
	case strings.Contains(e.words, "terminating on signal"): // QEMU's word for SIGTERM; it then exits with 0
		exit.Kind, exit.Detail = banger.ExitKilled, e.words
	default:
		exit.Detail = e.words
	}
	return exit
}

// meaning is what a signal says of a VMM, whose guest's memory is a mapped file: a
// page that a full filesystem has no block for raises SIGBUS when the guest first
// touches it (mmap(2)).
func meaning(s syscall.Signal) string {
	if s == syscall.SIGBUS {
		return ", as when the filesystem of the guest's memory is full"
	}
	return ""
}

// StartError is why a machine didn't start whose VMM, called so, ended instead.
func StartError(vmm string, exit banger.Exit) error {
	err := exit.Excuse(fmt.Errorf("%s ended: %s", vmm, exit.Detail))
	if exit.Status != 128+int(syscall.SIGBUS) {
		return err
	}
	return banger.Errorf(banger.CodeUnavailable, "%w", err).
		WithHint("make room where the memory lies, in /dev/shm or, of a template, in the cache directory")
}

// printable cuts a guest's or a VMM's text down to what may be shown.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "�")
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > lastWords {
		s = strings.ToValidUTF8(s[len(s)-lastWords:], "")
	}
	return strings.TrimSpace(s)
}

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
	verb string          // what the guest's init announced, from the agent
	kind banger.ExitKind // what the kernel's last message on the console means
	line string          // that message
}

// trace collects it while the VM runs.
type trace struct {
	mu    sync.Mutex
	seen  seen
	ended bool // we ended the VMM, as its guest had ended
}

// haltedWord is the only last message of a kernel after which its VMM runs on.
const haltedWord = "reboot: System halted"

// lastWord says what a console line means, "" if it is none of a kernel's last messages. The
// kernel prints those at level emerg, which "quiet" doesn't hide (kernel/reboot.c,
// kernel/panic.c).
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

// ownSignals are signals of a program's own fault, not of somebody who kills it.
var ownSignals = []syscall.Signal{
	syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGSYS, syscall.SIGTRAP,
}

// fate is how a process ended, if its parent was there to see.
type fate struct {
	waited bool
	status syscall.WaitStatus
}

// evidence is all that is known about an end.
type evidence struct {
	seen
	fate
	ended bool   // we ended the VMM, after its guest had
	full  string // the kernel killed one of the VM's processes for lack of memory; empty: none
	words string // the end of the VMM's output
}

// signal returns the signal that ended the VMM; 0 if none did, or if we sent it.
func (e evidence) signal() syscall.Signal {
	if !e.waited || !e.status.Signaled() || e.ended && (e.status.Signal() == syscall.SIGTERM || e.status.Signal() == syscall.SIGKILL) {
		return 0
	}
	return e.status.Signal()
}

// judge says how the machine ended. The last message of the guest's kernel counts most: after
// it the guest has ended, whatever ends the VMM. The agent only announces what the guest is
// about to do: a signal that ends the VMM meanwhile counts more than that.
func (e evidence) judge() banger.Exit {
	exit := banger.Exit{Kind: banger.ExitUnknown, Status: -1}
	if e.waited {
		exit.Status = e.status.ExitStatus()
	}
	if e.status.Signaled() && e.waited {
		exit.Status = 128 + int(e.status.Signal())
	}
	died := e.signal()
	switch {
	case e.kind == banger.ExitPanic:
		exit.Kind, exit.Detail = e.kind, e.line
	case slices.Contains(ownSignals, died):
		exit.Kind, exit.Detail = banger.ExitFailed, unix.SignalName(died)+meaning(died)+": "+e.words
	case e.kind != "" && verbs[e.verb] != "":
		exit.Kind = verbs[e.verb]
	case e.kind != "":
		exit.Kind = e.kind
	case e.full != "" && (died == syscall.SIGKILL || !e.waited):
		exit.Kind, exit.Detail = banger.ExitFailed, e.full
	case died != 0:
		exit.Kind, exit.Detail = banger.ExitKilled, unix.SignalName(died)
	case verbs[e.verb] != "":
		exit.Kind = verbs[e.verb]
	case e.waited && e.status.ExitStatus() != 0:
		exit.Kind, exit.Detail = banger.ExitFailed, e.words
	case strings.Contains(e.words, "terminating on signal"): // QEMU's word for SIGTERM; it then exits with 0
		exit.Kind, exit.Detail = banger.ExitKilled, e.words
	default:
		exit.Detail = e.words
	}
	return exit
}

// meaning explains a signal. A guest's memory is a mapped file: if the filesystem is full, the
// VMM gets SIGBUS when the guest first uses a page (mmap(2)).
func meaning(s syscall.Signal) string {
	if s == syscall.SIGBUS {
		return ", as when the filesystem of the guest's memory is full"
	}
	return ""
}

// StartError is the error of a machine whose VMM, called vmm, ended instead of starting.
func StartError(vmm string, exit banger.Exit) error {
	err := exit.Excuse(fmt.Errorf("%s ended: %s", vmm, exit.Detail))
	if exit.Status != 128+int(syscall.SIGBUS) {
		return err
	}
	return banger.Errorf(banger.CodeUnavailable, "%w", err).
		WithHint("make room where the guest's memory is: in /dev/shm or, for a template, in the cache directory")
}

// printable removes from a guest's or a VMM's text what may not be shown.
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

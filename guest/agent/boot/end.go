package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
)

// Bounds of the machine's end, so that it always comes to an end.
const (
	termWait   = 5 * time.Second  // between TERM and KILL, without an init
	killWait   = time.Second      // for killed processes to be gone
	noticeWait = time.Second      // for the host to be told
	initWait   = 10 * time.Second // for an init to take a request
	first      = "/proc/1"
)

// signals are those by which inits are asked to end a machine, ours too: systemd's
// SIGRTMIN+n, see systemd(1), and busybox's. The verbs are those of reboot(8).
var signals = map[syscall.Signal]string{
	34 + 3: "halt", 34 + 4: "poweroff", 34 + 5: "reboot",
	syscall.SIGUSR1: "halt", syscall.SIGUSR2: "poweroff", syscall.SIGTERM: "reboot", syscall.SIGINT: "reboot",
}

func verbSignals() iter.Seq[os.Signal] {
	return func(yield func(os.Signal) bool) {
		for s := range maps.Keys(signals) {
			if !yield(s) {
				return
			}
		}
	}
}

func verbOfSignal(s os.Signal) string { return signals[s.(syscall.Signal)] }

// askInit asks PID 1 to end the machine, in PID 1's own way. replaced says that the image's
// init takes the place of our program there.
func askInit(ctx context.Context, verb string, replaced bool) error {
	ctx, cancel := context.WithTimeout(ctx, initWait)
	defer cancel()
	for replaced && ours(first) && pause(ctx) {
	}
	exe, _ := os.Readlink(first + "/exe")
	signals := map[string]syscall.Signal{"poweroff": 34 + 4, "reboot": 34 + 5}
	switch {
	case ours(first): // it keeps a signal until it can end
		return unix.Kill(1, signals[verb])
	case filepath.Base(exe) == "systemd":
	case filepath.Base(exe) == "busybox":
		signals = map[string]syscall.Signal{"poweroff": syscall.SIGUSR2, "reboot": syscall.SIGTERM}
	default:
		if out, err := exec.CommandContext(ctx, verb).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %.200q", verb, err, out)
		}
		return nil
	}
	for !takes(first, signals[verb]) {
		if !pause(ctx) {
			return fmt.Errorf("%s: %s doesn't take signals yet", verb, exe)
		}
	}
	return unix.Kill(1, signals[verb])
}

// pause waits a moment. It returns false when ctx is done.
func pause(ctx context.Context) bool {
	time.Sleep(5 * time.Millisecond)
	return ctx.Err() == nil
}

// ours reports whether a process, given by its directory in /proc, runs this program.
func ours(process string) bool {
	its, err1 := os.Stat(process + "/exe")
	own, err2 := os.Stat("/proc/self/exe")
	return err1 == nil && err2 == nil && os.SameFile(its, own)
}

// takes reports whether a process catches a signal, or blocks it to read it. The kernel drops
// one that PID 1 doesn't take: an init that has just begun would never see it.
func takes(process string, s syscall.Signal) bool {
	status, err := os.ReadFile(process + "/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		name, set, _ := strings.Cut(line, ":")
		mask, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
		if (name == "SigBlk" || name == "SigCgt") && err == nil && mask>>(s-1)&1 == 1 {
			return true
		}
	}
	return false
}

// reaperEnd ends a machine without an init: it ends all processes, leaves the root as
// systemd would, and becomes /shutdown. It doesn't return.
func reaperEnd(verb string) {
	if err := unix.Kill(-1, unix.SIGTERM); err == nil {
		waitGone(termWait)
	}
	if err := leaveRoot(); err != nil {
		logf("leave the root: %v", err) // its file systems stay mounted, but synced
		End([]string{verb})
	}
	err := unix.Exec("/shutdown", []string{"/shutdown", verb}, []string{defaultPath})
	logf("/shutdown: %v", err)
	End([]string{verb})
}

// endDirs are the directories of a root that a machine ends in.
var endDirs = []string{"oldroot", "dev", "proc", "sys", "run"}

// leaveRoot makes endDir the root of all processes that have ours, so that ours can be
// unmounted.
func leaveRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil { // else there is no pivot
		return err
	}
	if err := unix.Mount(endDir, endDir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := os.Chdir(endDir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "oldroot"); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount("/oldroot"+dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	return os.Chdir("/")
}

// End is PID 1 at the very end, args[0] being "poweroff", "reboot", "halt" or
// "kexec": it ends what still runs, unmounts what is mounted, has the agent
// tell the host, and resets the machine. It doesn't return.
func End(args []string) {
	verb := "poweroff"
	if len(args) > 0 {
		verb = args[0]
	}
	for _, pid := range strangers() {
		_ = unix.Kill(pid, unix.SIGKILL) // it may be gone already
	}
	waitGone(killWait)
	unmountAll()
	unix.Sync()
	tellAgent(verb)
	reset(verb)
}

// strangers returns the processes that aren't the kernel's, ours or storage daemons
// ("@…"), which must live until their file systems are unmounted.
func strangers() []int {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil || pid == 1 {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", n.Name(), "cmdline"))
		// Kernel threads and the dead have no command line.
		if err == nil && len(cmdline) > 0 && !bytes.HasPrefix(cmdline, []byte("@")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func waitGone(limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end) && len(strangers()) > 0; {
		time.Sleep(5 * time.Millisecond)
	}
}

// mount is one line of /proc/self/mountinfo, proc_pid_mountinfo(5).
type mount struct{ at, kind string }

func mounts() []mount {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		logf("mounts: %v", err)
	}
	return parseMounts(string(data))
}

func parseMounts(mountinfo string) []mount {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var list []mount
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(line, " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if ok && len(h) >= 5 && len(t) >= 1 {
			list = append(list, mount{unescape.Replace(h[4]), t[0]})
		}
	}
	return list
}

// unmountAll unmounts all file systems but the kernel's own, newest first. A busy one is
// made read-only, which is as safe for its data.
func unmountAll() {
	list := mounts()
	for i := len(list) - 1; i >= 0; i-- {
		m := list[i]
		if keepMounted(m.at) {
			continue
		}
		flags := 0
		switch m.kind {
		case "tmpfs", "devtmpfs", "proc", "sysfs", "cgroup2", "devpts", "ramfs", "rootfs", "securityfs", "debugfs", "tracefs", "bpf", "mqueue":
			flags = unix.MNT_DETACH // it has no data, but others below it must be unmounted
		}
		err := unix.Unmount(m.at, flags|unix.UMOUNT_NOFOLLOW)
		if err == nil || errors.Is(err, unix.EINVAL) { // EINVAL: went with a parent
			continue
		}
		logf("unmount %s: %v", m.at, err)
		if err := unix.Mount("", m.at, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			logf("make %s read-only: %v", m.at, err)
		}
		_ = unix.Unmount(m.at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}

func keepMounted(at string) bool {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if at == dir || strings.HasPrefix(at, dir+"/") {
			return true
		}
	}
	return at == "/" || at == "/run"
}

// tellAgent asks the agent to tell the host how this machine ends.
func tellAgent(verb string) {
	conn, err := net.DialTimeout("unix", socketPath, noticeWait)
	if err != nil {
		return // there is no agent; the host reads the end of the console
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(noticeWait + noticeWait/2)); err != nil {
		return
	}
	fmt.Fprintf(conn, "%s\n", verb)
	_, _ = io.Copy(io.Discard, conn) // the agent closes it when the host knows
}

// ServeNotices listens for the machine's end and passes it on by notify, which
// returns when the host knows. It returns only errors.
func ServeNotices(notify func(context.Context, guest.Notice) error) error {
	if err := os.Remove(socketPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socketPath)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := os.Chmod(socketPath, 0o600); err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		verb := make([]byte, 16)
		_ = conn.SetReadDeadline(time.Now().Add(noticeWait))
		if n, err := conn.Read(verb); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), noticeWait)
			if err := notify(ctx, guest.Notice{Kind: strings.TrimSpace(string(verb[:n]))}); err != nil {
				logf("tell the host: %v", err)
			}
			cancel()
		}
		conn.Close()
	}
}

// reset ends the machine. Where the hypervisor doesn't notice a power-off
// (Firecracker on x86), its driver asks for a reset by banger.reset=1.
func reset(verb string) {
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if verb == "reboot" || verb == "kexec" || cmdlineValue("banger.reset") == "1" {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	err := unix.Reboot(how)
	logf("%s: %v", verb, err)
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	logf("reset: %v", err)
	os.Exit(1) // as PID 1: the kernel panics, and resets
}

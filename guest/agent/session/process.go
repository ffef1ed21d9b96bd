package session

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/account"
	"banger/guest/agent/group"
	"banger/guest/agent/tool"
)

// process is a command's first process and our ends of its streams. The
// process leads a session and a process group of its own number.
type process struct {
	pid   int
	pidfd *os.File // nil on a kernel without pidfds
	stdin *os.File // nil: /dev/null
	out   [2]*os.File
	tty   bool // stdin and out[stdout] are one terminal master
	slave *os.File
	group *group.Group
	begun time.Time
}

// program is what to execute, resolved.
type program struct {
	path string
	argv []string
	attr syscall.ProcAttr
	who  account.Account
}

// exitError is why a command never ran, with the status a shell would give it.
type exitError struct {
	code int
	msg  string
}

func (e *exitError) Error() string { return e.msg }

func cannot(code int, format string, args ...any) error {
	return &exitError{code, fmt.Sprintf(format, args...)}
}

// resolve turns a spec into what execve wants. Its errors are exitErrors.
func resolve(spec *guest.ExecSpec) (*program, error) {
	who, err := account.Lookup("", spec.User)
	if err != nil {
		return nil, cannot(126, "%v", err)
	}
	p := &program{who: who, argv: spec.Argv}
	term := ""
	if spec.TTY != nil {
		if term = spec.Term; term == "" {
			term = "xterm"
		}
	}
	p.attr.Env = who.Environ(term, spec.Env)
	if p.attr.Dir, err = directory(who, spec.Dir); err != nil {
		return nil, err
	}
	p.attr.Sys = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		p.attr.Sys.Credential = &syscall.Credential{Uid: who.UID, Gid: who.GID, Groups: who.Groups}
	} else if int(who.UID) != os.Geteuid() {
		return nil, cannot(126, "can't run as %s: the agent isn't root", who.Name)
	}
	switch {
	case spec.Tool != "":
		p.path = "/proc/self/exe"
		p.argv = []string{tool.Name, spec.Tool}
		if len(spec.Argv) > 1 {
			p.argv = append(p.argv, spec.Argv[1:]...)
		}
	case len(spec.Argv) == 0:
		p.path = who.Shell
		p.argv = []string{"-" + filepath.Base(who.Shell)} // the leading dash makes it a login shell
	case spec.Shell:
		p.path = who.Shell
		p.argv = append([]string{who.Shell}, spec.Argv[1:]...)
	default:
		p.path, err = p.find(spec.Argv[0])
	}
	return p, err
}

// directory is where a command starts: dir, relative to the home, which need not exist.
func directory(a account.Account, dir string) (string, error) {
	if dir == "" {
		if st, err := os.Stat(a.Home); err != nil || !st.IsDir() {
			return "/", nil
		}
		return a.Home, nil
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(a.Home, dir)
	}
	if st, err := os.Stat(dir); err != nil {
		return "", cannot(126, "working directory: %v", err)
	} else if !st.IsDir() {
		return "", cannot(126, "working directory %s is not a directory", dir)
	}
	return dir, nil
}

// find looks a command up as execvp(3) does, with the command's own PATH and the rights of
// the user it will run as.
func (p *program) find(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // relative to the working directory: execve comes after chdir
	}
	path := ""
	for _, kv := range p.attr.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	denied := false
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(p.attr.Dir, dir)
		}
		file := filepath.Join(dir, name)
		st, err := os.Stat(file)
		if err != nil || st.IsDir() {
			denied = denied || errors.Is(err, fs.ErrPermission)
			continue
		}
		if p.who.MayExecute(st) {
			return file, nil
		}
		denied = true
	}
	if denied {
		return "", cannot(126, "%s: permission denied", name)
	}
	return "", cannot(127, "%s: command not found", name)
}

// start runs the program. Its errors are exitErrors.
func (t *Table) start(p *program, spec *guest.ExecSpec) (*process, error) {
	proc := &process{tty: spec.TTY != nil}
	child, err := proc.open(p, spec)
	defer func() {
		for _, fd := range child {
			unix.Close(fd)
		}
	}()
	if err != nil {
		proc.close()
		return nil, cannot(126, "open its streams: %v", err)
	}
	p.attr.Files = []uintptr{uintptr(child[0]), uintptr(child[1]), uintptr(child[2])}
	pidfd := -1
	p.attr.Sys.PidFD = &pidfd
	if proc.group = t.groups.Take(t.Cgroup); proc.group != nil {
		p.attr.Sys.UseCgroupFD, p.attr.Sys.CgroupFD = true, proc.group.FD()
	}
	proc.begun = time.Now()
	err = t.fork(p, proc)
	if leaf := proc.group; leaf != nil && err != nil {
		// It may be execve or the group that failed (clone(2), CLONE_INTO_CGROUP). Errors of
		// the latter differ between kernels, so try again without a group.
		proc.group, p.attr.Sys.UseCgroupFD = nil, false
		if err = t.fork(p, proc); err == nil {
			leaf.Drop()
		} else {
			t.groups.Give(leaf)
		}
	}
	if err != nil {
		proc.close()
		return nil, startError(p.argv[0], err)
	}
	if pidfd >= 0 && unix.SetNonblock(pidfd, true) == nil {
		proc.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	}
	return proc, nil
}

// fork starts the program with the usual OOM score. The agent's own score, which tells
// the kernel to spare it, would be inherited. So fork changes our score for a moment: if
// it changed the child's score later, the child's children might have a wrong one.
func (t *Table) fork(p *program, proc *process) (err error) {
	t.forkMu.Lock()
	defer t.forkMu.Unlock()
	const score = "/proc/self/oom_score_adj"
	if own, err := os.ReadFile(score); err == nil && strings.TrimSpace(string(own)) != "0" {
		if os.WriteFile(score, []byte("0"), 0) == nil {
			defer func() { _ = os.WriteFile(score, own, 0) }()
		}
	}
	proc.pid, _, err = syscall.StartProcess(p.path, p.argv, &p.attr)
	if err == syscall.ENOEXEC {
		// As execvp(3): a script without #! is the shell's.
		script := append([]string{"/bin/sh", p.path}, p.argv[min(1, len(p.argv)):]...)
		proc.pid, _, err = syscall.StartProcess("/bin/sh", script, &p.attr)
	}
	return err
}

func startError(name string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return cannot(127, "%s: %v", name, err)
	default:
		return cannot(126, "%s: %v", name, err)
	}
}

// open makes the streams and returns the child's three descriptors.
func (proc *process) open(p *program, spec *guest.ExecSpec) (child []int, err error) {
	if spec.TTY != nil {
		return proc.openTTY(p, *spec.TTY)
	}
	if spec.Stdin {
		r, w, err := pipe(1, p.who)
		if err != nil {
			return nil, err
		}
		child, proc.stdin = append(child, r), w
	} else {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		child = append(child, fd)
	}
	for i := range proc.out {
		w, r, err := pipe(0, p.who)
		if err != nil {
			return child, err
		}
		child, proc.out[i] = append(child, w), r
	}
	return child, nil
}

// pipeSize is what a command's pipe holds, in bytes. With one processor each filling of it costs
// two switches between command and agent.
const pipeSize = 256 << 10

// pipe returns the child's end of a pipe and our end, ours being the index-th
// (1 writes). The child's belongs to its user, who may open /dev/stdout anew.
func pipe(ours int, who account.Account) (child int, own *os.File, err error) {
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC); err != nil {
		return -1, nil, err
	}
	_, _ = unix.FcntlInt(uintptr(fd[ours]), unix.F_SETPIPE_SZ, pipeSize) // else it has what Linux gives it
	child = fd[1-ours]
	if int(who.UID) != os.Geteuid() {
		_ = unix.Fchown(child, int(who.UID), int(who.GID))
	}
	if err := unix.SetNonblock(fd[ours], true); err != nil {
		unix.Close(fd[0])
		unix.Close(fd[1])
		return -1, nil, err
	}
	return child, os.NewFile(uintptr(fd[ours]), "pipe"), nil
}

// openTTY makes a pseudoterminal (pty(7)); the child takes it as its
// controlling terminal. TIOCGPTPEER opens the slave without a path, which an
// image could have put something else at.
func (proc *process) openTTY(p *program, size guest.WinSize) ([]int, error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/ptmx: %w", err)
	}
	file := os.NewFile(uintptr(master), "ptmx")
	proc.stdin, proc.out[stdout] = file, file
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, fmt.Errorf("open the terminal: %w", errno)
	}
	slave := int(fd)
	setSize(master, size)
	if os.Geteuid() == 0 {
		const ttyGroup = 5 // as devpts' gid=5 everywhere
		_ = unix.Fchown(slave, int(p.who.UID), ttyGroup)
		_ = unix.Fchmod(slave, 0o620)
	}
	p.attr.Sys.Setctty, p.attr.Sys.Ctty = true, 0
	// We keep it open until the process is dead: a program may close all three before it
	// exits (cat does, to report errors), and then reading from the master would end.
	proc.slave = os.NewFile(uintptr(slave), "tty")
	var child []int
	for range 3 {
		fd, err := unix.FcntlInt(uintptr(slave), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return child, err
		}
		child = append(child, fd)
	}
	return child, nil
}

func setSize(master int, size guest.WinSize) {
	_ = unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
}

// resize sets the size of a process' terminal; there may be no process or terminal.
func (proc *process) resize(size guest.WinSize) {
	if proc != nil && proc.tty {
		control(proc.out[stdout], func(fd int) { setSize(fd, size) })
	}
}

// hangUp closes our end of an output, so that writing fails; there may be no process.
func (proc *process) hangUp(stream int) {
	if proc != nil && proc.out[stream] != nil {
		proc.out[stream].Close()
	}
}

// control runs f with the file's descriptor; a closed file is left alone.
func control(file *os.File, f func(fd int)) {
	if raw, err := file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

func (proc *process) close() {
	for _, f := range []*os.File{proc.stdin, proc.out[0], proc.out[1], proc.slave, proc.pidfd} {
		if f != nil {
			f.Close()
		}
	}
}

// await returns when the process has ended, without reaping it. Until reap no other process
// can get its PID, so a signal can't reach another one.
func (proc *process) await() {
	idType, id := unix.P_PID, proc.pid
	if proc.pidfd != nil {
		raw, err := proc.pidfd.SyscallConn()
		if err == nil && raw.Read(func(fd uintptr) bool { return proc.ended(unix.P_PIDFD, int(fd), unix.WNOHANG) }) == nil {
			return
		}
	}
	for !proc.ended(idType, id, 0) {
	}
}

func (proc *process) ended(idType, id, flags int) bool {
	for {
		var info unix.Siginfo
		err := unix.Waitid(idType, id, &info, unix.WEXITED|unix.WNOWAIT|flags, nil)
		if err == unix.EINTR {
			continue
		}
		return err == nil && info.Signo != 0 || err == unix.ECHILD
	}
}

// reap collects the ended process and says how it ended.
func (proc *process) reap() guest.ExitStatus {
	var ws unix.WaitStatus
	_, err := unix.Wait4(proc.pid, &ws, 0, nil)
	for err == unix.EINTR {
		_, err = unix.Wait4(proc.pid, &ws, 0, nil)
	}
	st := guest.ExitStatus{Code: ws.ExitStatus(), TookUS: time.Since(proc.begun).Microseconds()}
	if err != nil {
		st.Code, st.Error = 255, "its exit status was lost: "+err.Error()
	}
	if ws.Signaled() {
		st.Code = 128 + int(ws.Signal())
		st.Signal = strings.TrimPrefix(unix.SignalName(ws.Signal()), "SIG")
		st.OOM = ws.Signal() == unix.SIGKILL && proc.group.OOMKilled()
	}
	for _, f := range []*os.File{proc.pidfd, proc.slave} {
		if f != nil {
			f.Close()
		}
	}
	return st
}

// signal sends to the process group, or to the foreground group of a terminal.
func (proc *process) signal(sig syscall.Signal) {
	group := proc.pid
	if proc.tty {
		control(proc.out[stdout], func(fd int) {
			if fg, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil && fg > 0 {
				group = fg
			}
		})
	}
	_ = unix.Kill(-group, sig)
}

// unread returns how many bytes wait in the command's output streams.
func (proc *process) unread() int {
	total := 0
	for _, f := range proc.out {
		if f != nil {
			control(f, func(fd int) {
				if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
					total += n
				}
			})
		}
	}
	return total
}

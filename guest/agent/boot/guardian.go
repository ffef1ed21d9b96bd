package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// held is the first argument of a process that was handed its lock as descriptor 3.
const held = "held"

// Guard is the guardian: whenever no agent lives, it starts one. args are the
// program's, without argv[0]. It doesn't return.
func Guard(args []string) {
	protect()
	lock, err := ownLock(args, guardianLock, unix.LOCK_EX)
	if err != nil {
		logf("guardian: %v", err)
		os.Exit(1)
	}
	defer lock.Close() // never: a collected file would drop the lock
	keep(agentLock, func(l *os.File) (int, error) { return startAgent(l, nil, nil) })
}

// ownLock returns the lock this process was handed, or takes it itself.
func ownLock(args []string, path string, how int) (*os.File, error) {
	if len(args) > 0 && args[0] == held {
		unix.CloseOnExec(3)
		return os.NewFile(3, path), nil
	}
	return takeLock(path, how)
}

// takeLock opens and locks path. With LOCK_EX it waits for the holder's end,
// with LOCK_EX|LOCK_NB it returns EWOULDBLOCK when there is one.
func takeLock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// keep calls start whenever no process holds path's lock: start starts the process that is
// to hold it. keep doesn't return.
func keep(path string, start func(lock *os.File) (pid int, err error)) {
	var last time.Time
	for {
		lock, err := takeLock(path, unix.LOCK_EX)
		if time.Since(last) < time.Second {
			time.Sleep(250 * time.Millisecond) // one that always dies at once must not take all CPU time
		}
		last = time.Now()
		if err == nil {
			var pid int
			if pid, err = start(lock); err == nil {
				go reap(pid)
			}
			lock.Close() // the new process holds it now
		}
		if err != nil {
			logf("keep %s: %v", path, err)
		}
	}
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// startAgent starts an agent that owns lock. root, when it isn't nil, is where
// the agent tells PID 1 that the root is ready.
func startAgent(lock, root *os.File, env []string) (int, error) {
	return startNeighbour(AgentName, []*os.File{lock, root}, env)
}

// startGuardian starts a guardian that owns lock.
func startGuardian(lock *os.File) (int, error) {
	return startNeighbour(GuardianName, []*os.File{lock}, nil)
}

// startNeighbour starts one of our own parts beside the image's init, in a session and a
// cgroup of its own. files become its descriptors 3, 4, ….
func startNeighbour(name string, files []*os.File, env []string) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	fds := []uintptr{null.Fd(), 1, 2}
	argv := []string{name, held}
	for _, f := range files {
		if f != nil {
			fds = append(fds, f.Fd())
		}
	}
	attr := &syscall.SysProcAttr{Setsid: true}
	if cg, err := unix.Open(agentCgroup, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		defer unix.Close(cg)
		attr.UseCgroupFD, attr.CgroupFD = true, cg
	}
	env = append([]string{defaultPath, "HOME=/root", "TERM=linux", "LANG=C.UTF-8"}, env...)
	pid, err := syscall.ForkExec(agentPath, argv, &syscall.ProcAttr{Dir: "/", Env: env, Files: fds, Sys: attr})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", name, err)
	}
	return pid, nil
}

// guardianUnit makes systemd restart a guardian, too. After kill -9 -1 systemd is the only
// process left, so only it can bring the agent back.
const guardianUnit = `[Unit]
Description=Keeps the banger agent alive
DefaultDependencies=no
StartLimitIntervalSec=0

[Service]
ExecStart=@PATH NAME
Restart=always
RestartSec=0
KillMode=process
OOMScoreAdjust=-1000
`

// writeUnits writes our units where systemd reads runtime units, and turns off the login
// on the serial console, which is only a log. That login would wait for udev: 90 seconds
// in an image without udev.
func writeUnits() error {
	const dir = "/run/systemd/system"
	if err := os.MkdirAll(dir+"/sysinit.target.wants", 0o755); err != nil {
		return err
	}
	unit := strings.NewReplacer("PATH", agentPath, "NAME", GuardianName).Replace(guardianUnit)
	if err := os.WriteFile(dir+"/banger-guardian.service", []byte(unit), 0o644); err != nil {
		return err
	}
	links := map[string]string{
		dir + "/sysinit.target.wants/banger-guardian.service": "../banger-guardian.service",
		dir + "/serial-getty@ttyS0.service":                   "/dev/null",
	}
	for name, target := range links {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"banger"
	"banger/api"
	"banger/cli"
	"banger/config"
	"banger/host/hostfs"
	"banger/host/proc"
	"banger/host/unixsock"
	"banger/host/xdg"
	"banger/version"
)

// startBound is how long a daemon may take until its socket listens. It takes a tenth
// of a second, unless the host is overloaded.
const startBound = time.Minute

// daemon is the user's bangerd as the command line sees it.
type daemon struct {
	dirs     xdg.Dirs
	unusable error // what is wrong with config.toml; then no daemon may be used
	judged   atomic.Bool

	conf config.Config // config.toml
}

func (d *daemon) log() string { return filepath.Join(d.dirs.State, "daemon.log") }

// find connects to a daemon that runs.
func (d *daemon) find(ctx context.Context) (net.Conn, error) {
	if d.unusable != nil {
		return nil, d.unusable // only the file may say where the daemon is
	}
	return unixsock.Dial(ctx, d.dirs.Socket)
}

// connect connects to the daemon, and starts it when there is none.
func (d *daemon) connect(ctx context.Context) (net.Conn, error) {
	if conn, err := d.find(ctx); err == nil || !absent(err) {
		return conn, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startBound, errors.New("the daemon was started but didn't answer"))
	defer cancel()
	return d.start(ctx)
}

// absent reports whether an error means that nobody listens.
func absent(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// start starts a daemon and connects to it. Only one command at a time does: the
// others connect to the daemon that it started.
func (d *daemon) start(ctx context.Context) (net.Conn, error) {
	if err := sudoTrap(d.dirs); err != nil {
		return nil, err
	}
	if err := d.dirs.Make(); err != nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "%w", err).WithHint("`banger doctor` looks at the directories; config.toml can name others")
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		slow := time.AfterFunc(500*time.Millisecond, func() { fmt.Fprintln(os.Stderr, "banger: waiting for the daemon to start") })
		defer slow.Stop()
	}
	unlock, err := lock(ctx, filepath.Join(d.dirs.State, "start.lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if conn, err := d.find(ctx); err == nil || !absent(err) {
		return conn, err
	}
	ready, err := d.spawn()
	if err != nil {
		return nil, err
	}
	defer func() { _ = ready.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if line, _ := bufio.NewReader(ready).ReadString('\n'); line != "ready\n" {
		return nil, d.notStarted(ctx)
	}
	return d.find(ctx)
}

// sudoTrap returns an error if this is root by sudo and the directories are in the
// home of the user who called sudo: with files of root's there, that user's own banger
// would no longer work.
func sudoTrap(dirs xdg.Dirs) error {
	dir, uid, foreign := dirs.Foreign()
	if !foreign || os.Getuid() != 0 || os.Getenv("SUDO_UID") != strconv.Itoa(uid) {
		return nil
	}
	return banger.Errorf(banger.CodeInvalid, "this is root, by sudo, and %s belongs to user %s", dir, os.Getenv("SUDO_USER")).
		WithHint("leave sudo out: banger doesn't need root; or use `sudo -H`, which gives root its own banger")
}

// notStarted says why no daemon started, with the end of its log.
func (d *daemon) notStarted(ctx context.Context) error {
	why := "it ended"
	if ctx.Err() != nil {
		why = context.Cause(ctx).Error()
	}
	return banger.Errorf(banger.CodeUnavailable, "the daemon didn't start: %s", why).
		WithHint("%s ends with:\n%s", d.log(), lastLines(d.log(), 8))
}

// spawn starts bangerd in a session of its own, without a terminal. Of our files it
// gets only the log and a pipe, on which it says that it listens.
func (d *daemon) spawn() (ready *os.File, err error) {
	exe, err := bangerd()
	if err != nil {
		return nil, err
	}
	log, err := openLog(d.log())
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Close() }()
	cmd := exec.Command(exe, "--ready-fd=3")
	cmd.Dir = "/"
	cmd.Env = environment(os.Environ())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	proc.Detach(cmd)
	if err := cmd.Start(); err != nil {
		_ = r.Close()
		return nil, banger.Errorf(banger.CodeUnavailable, "start the daemon: %w", err)
	}
	go func() { _ = cmd.Wait() }() // no zombie while a long command runs
	return r, nil
}

// bangerd finds the daemon beside this program, where builds and packages put
// it, else in PATH.
func bangerd() (string, error) {
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			if exe := filepath.Join(filepath.Dir(self), "bangerd"); unix.Access(exe, unix.X_OK) == nil {
				return exe, nil
			}
		}
	}
	exe, err := exec.LookPath("bangerd")
	if err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "bangerd is neither beside banger nor in PATH: %w", err)
	}
	return filepath.Abs(exe)
}

// environment is the part of our environment that the daemon gets: where files and
// programs are, and how to reach the network. The rest may hold secrets.
func environment(env []string) []string {
	keep := []string{"HOME", "USER", "LOGNAME", "PATH", "LANG", "TMPDIR", "TZ",
		"XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
		"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return !slices.Contains(keep, key)
	})
}

// maxLog is the size, in bytes, from which a start renames the log. So there are at
// most two files of about this size.
const maxLog = 4 << 20

func openLog(path string) (*os.File, error) {
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// lastLines returns the end of a file for a person to read.
func lastLines(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return "  " + err.Error()
	}
	defer func() { _ = f.Close() }()
	if fi, err := f.Stat(); err == nil && fi.Size() > 8<<10 {
		_, _ = f.Seek(-8<<10, io.SeekEnd)
	}
	data, _ := io.ReadAll(f)
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}

// lock takes a file lock, waiting until ctx ends. The lock ends with this process.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := hostfs.OpenLocked(ctx, path)
	switch {
	case err == nil:
		return func() { _ = f.Close() }, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("wait for another command that starts the daemon: %w", context.Cause(ctx))
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, err
	}
	return nil, banger.Errorf(banger.CodeUnavailable, "files in %s can't be locked: %w", filepath.Dir(path), err).
		WithHint("two daemons could use the same records; set state_dir in config.toml to a directory on a disk of this host")
}

// Status implements cli.Daemon.
func (d *daemon) Status(ctx context.Context) (cli.DaemonStatus, error) {
	st := cli.DaemonStatus{Socket: d.dirs.Socket, Log: d.log()}
	_, err := os.Stat(d.log())
	st.Records = err == nil
	conn, err := d.find(ctx)
	if err != nil {
		if absent(err) {
			err = nil
		}
		return st, err
	}
	defer func() { _ = conn.Close() }()
	v, err := api.Hello(ctx, conn)
	if err != nil {
		return st, err
	}
	st.Running, st.Daemon = true, &v
	return st, nil
}

// Stop implements cli.Daemon.
func (d *daemon) Stop(ctx context.Context) error {
	conn, err := d.find(ctx)
	if err != nil {
		if absent(err) {
			return nil
		}
		return err
	}
	defer func() { _ = conn.Close() }()
	var v version.Daemon
	if v, err = api.Hello(ctx, conn); err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(v.PID, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(pidfd) }()
	if err := api.Stop(ctx, conn); err != nil {
		return err
	}
	_ = conn.Close()
	return ended(ctx, pidfd)
}

// Examine implements cli.Daemon. It runs the daemon's program, which knows the
// drivers; that looks at the host and ends.
func (d *daemon) Examine(ctx context.Context) (banger.Report, error) {
	var r banger.Report
	exe, err := bangerd()
	if err != nil {
		return r, err
	}
	var said strings.Builder
	cmd := exec.CommandContext(ctx, exe, "--doctor")
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil {
		return r, banger.Errorf(banger.CodeUnavailable, "%s could not look at this host: %w %s", exe, err, strings.TrimSpace(said.String()))
	}
	return r, nil
}

// Log implements cli.Daemon.
func (d *daemon) Log(lines int) string { return lastLines(d.log(), lines) }

// Restart implements cli.Daemon.
func (d *daemon) Restart(ctx context.Context) error {
	if err := d.Stop(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startBound, errors.New("the daemon was started but didn't answer"))
	defer cancel()
	conn, err := d.start(ctx)
	if err == nil {
		err = conn.Close()
	}
	return err
}

// replace ends a daemon that is older than this program: one of an earlier release, or
// one whose file was replaced after it started. It looks only at the first daemon that
// this command meets, and doesn't end one that is making a change.
func (d *daemon) replace(ctx context.Context, v version.Daemon) (bool, error) {
	if d.judged.Swap(true) || v.Busy > 0 || !version.Older(v.Build, version.String()) && !fileReplaced(v.PID) {
		return false, nil
	}
	return true, d.Stop(ctx)
}

// fileReplaced reports whether our bangerd has the path of a process's program, but is
// another file.
func fileReplaced(pid int) bool {
	exe, err := bangerd()
	if err != nil {
		return false
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return false
	}
	link := fmt.Sprintf("/proc/%d/exe", pid)
	path, err := os.Readlink(link)
	if err != nil || strings.TrimSuffix(path, " (deleted)") != exe {
		return false
	}
	now, err := os.Stat(exe)
	then, err2 := os.Stat(link)
	return err == nil && err2 == nil && !os.SameFile(now, then)
}

// ended waits until a process is gone.
func ended(ctx context.Context, pidfd int) error {
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if n > 0 || err != nil && err != unix.EINTR {
			return err
		}
	}
	return banger.Errorf(banger.CodeCanceled, "interrupted; the daemon is ending")
}

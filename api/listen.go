package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen binds the daemon's socket: mode 0600 in a directory of mode 0700 that
// is the caller's own. A socket left by a dead daemon is replaced; that none is
// alive is for the caller's lock to say. Closing the listener removes it.
func Listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := ours(dir); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	short, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it would use the short path
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return &listener{Listener: l, path: path}, nil
}

// Connect opens a connection to the daemon's socket.
func Connect(ctx context.Context, path string) (net.Conn, error) {
	short, done, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	return d.DialContext(ctx, "unix", short)
}

type listener struct {
	net.Listener
	path string
}

func (l *listener) Close() error {
	_ = os.Remove(l.path) // first, so that nobody connects to a socket that won't answer
	return l.Listener.Close()
}

// ours refuses a directory in which somebody else could replace the socket.
func ours(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) != os.Getuid() || fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s must belong to you alone (chown, chmod 700): the daemon's socket goes there", dir)
	}
	return nil
}

// shorten returns a path for the same socket that fits into sun_path, 108
// bytes with its NUL (unix(7)), valid until done is called.
func shorten(path string) (short string, done func(), err error) {
	if len(path) < 108 {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path)), func() { _ = unix.Close(fd) }, nil
}

// peer returns the process at the other end and its user, as the kernel recorded
// them when the connection was made or listened for (SO_PEERCRED, unix(7)), -1 where
// that can't be told.
func peer(c net.Conn) (pid, uid int) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return -1, -1
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, -1
	}
	pid, uid = -1, -1
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid, uid = int(cred.Pid), int(cred.Uid)
		}
	})
	if err != nil {
		return -1, -1
	}
	return pid, uid
}

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"banger/host/unixsock"
)

// Listen binds the daemon's socket: mode 0600 in a directory of mode 0700 that the
// caller's user owns. It replaces a socket that is there: the caller's lock must make
// sure that no other daemon is alive. Closing the listener removes the socket.
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
	short, done, err := unixsock.Short(path)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it would unlink by the short path
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return &listener{Listener: l, path: path}, nil
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

// Package unixsock does what package net can't with Unix domain sockets (unix(7)):
// paths of any length, the process and user at the other end, and receiving
// descriptors. It knows nothing of what is sent on them.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dial connects to the stream socket at path.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	short, done, err := Short(path)
	if err != nil {
		return nil, err
	}
	defer done()
	return dial(ctx, path, short)
}

// DialItself is Dial that doesn't follow a symbolic link at path. It is for sockets in
// a directory that somebody else may write to.
func DialItself(ctx context.Context, path string) (*net.UnixConn, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK { // such as a symbolic link
		return nil, fmt.Errorf("%s is no socket", path)
	}
	return dial(ctx, path, fmt.Sprintf("/proc/self/fd/%d", fd))
}

func dial(ctx context.Context, path, short string) (*net.UnixConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", short)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, errors.Unwrap(err)) // without net's text, which has the short path
	}
	return conn.(*net.UnixConn), nil
}

// Short returns a path for the same socket that fits into sun_path: 108 bytes with its
// NUL. It is valid until done is called.
func Short(path string) (short string, done func(), err error) {
	if len(path) < 108 {
		return path, func() {}, nil
	}
	dir, name := filepath.Split(path)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, name), func() { _ = unix.Close(fd) }, nil
}

// Peer returns the PID and user id of the other end, as the kernel recorded them at
// connect(2) or listen(2) (SO_PEERCRED). On error both are -1.
func Peer(c net.Conn) (pid, uid int, err error) {
	pid, uid = -1, -1
	sc, ok := c.(syscall.Conn)
	if !ok {
		return pid, uid, fmt.Errorf("credentials of the peer: %w", errors.ErrUnsupported)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return pid, uid, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return pid, uid, fmt.Errorf("credentials of the peer: %w", errors.Join(cerr, err))
	}
	return int(cred.Pid), int(cred.Uid), nil
}

// Pair returns two connected stream sockets; theirs is for another process.
func Pair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("a pair of sockets: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "theirs")
	if ours, err = Take(os.NewFile(uintptr(fds[0]), "ours")); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// Take makes a connection of a descriptor. It closes f in any case.
func Take(f *os.File) (*net.UnixConn, error) {
	defer func() { _ = f.Close() }() // FileConn duplicates
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("the descriptor is no Unix socket"), conn.Close())
	}
	return u, nil
}

// Receive reads once, and returns the descriptor that came with the bytes (SCM_RIGHTS),
// or nil. If more than one came, it closes them and returns an error.
func Receive(c *net.UnixConn, buf []byte) (n int, file *os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return n, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, nil, err
	}
	var fds []int
	for _, m := range messages {
		more, _ := unix.ParseUnixRights(&m) // none where it is another kind of message
		fds = append(fds, more...)
	}
	switch len(fds) {
	case 0:
		return n, nil, nil
	case 1:
		return n, os.NewFile(uintptr(fds[0]), "received"), nil
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return n, nil, fmt.Errorf("%d descriptors came in place of one", len(fds))
}

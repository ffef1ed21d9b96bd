package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// cable is the guest's Ethernet cable: a read or a write is one frame.
type cable interface {
	io.ReadWriteCloser
	SetWriteDeadline(time.Time) error
}

// sockets is the cable of a VMM that sends frames as Unix datagrams.
type sockets struct {
	*net.UnixConn
	peer *net.UnixAddr
	dir  *os.File // holds the sockets' directory, see short
	own  string   // our socket's path
}

// bind binds our end.
func bind(cfg Config) (*sockets, error) {
	if filepath.Dir(cfg.Local) != filepath.Dir(cfg.Remote) {
		return nil, fmt.Errorf("%s and %s must lie in one directory", cfg.Local, cfg.Remote)
	}
	dir, err := os.OpenFile(filepath.Dir(cfg.Remote), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(cfg.Remote); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, dir.Close())
	}
	s := &sockets{dir: dir, own: cfg.Remote}
	if s.UnixConn, err = net.ListenUnixgram("unixgram", s.short(cfg.Remote)); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	s.peer = s.short(cfg.Local)
	if err := os.Chmod(cfg.Remote, 0o600); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// short returns a name of a socket in the held directory that fits the 107
// bytes of sockaddr_un (unix(7)) however deep the directory lies.
func (s *sockets) short(path string) *net.UnixAddr {
	return &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", s.dir.Fd(), filepath.Base(path)), Net: "unixgram"}
}

// Write sends a frame to the process that has bound the other end.
func (s *sockets) Write(frame []byte) (int, error) { return s.WriteToUnix(frame, s.peer) }

// Close removes our socket.
func (s *sockets) Close() error {
	return errors.Join(os.Remove(s.own), s.UnixConn.Close(), s.dir.Close())
}

// pause waits a moment, or until ctx ends.
func pause(ctx context.Context) {
	select {
	case <-time.After(sendPatience):
	case <-ctx.Done():
	}
}

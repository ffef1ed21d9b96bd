package published

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// maxPassed bounds how many sockets are passed at a time (unix(7), SCM_MAX_FD is 253).
const maxPassed = 2 * banger.MaxPublished

// Send passes sockets to another process, which has been told their ports (SCM_RIGHTS).
func Send(conn *net.UnixConn, sockets []banger.Socket) error {
	var fds []int
	for _, s := range sockets {
		sc, ok := s.Conn.(syscall.Conn)
		if !ok {
			return fmt.Errorf("the socket of port %s: %w", s.Published, errors.ErrUnsupported)
		}
		raw, err := sc.SyscallConn()
		if err != nil {
			return err
		}
		// The copy outlives the socket's closing, which may come meanwhile.
		if cerr := raw.Control(func(fd uintptr) {
			var copied int
			if copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
				fds = append(fds, copied)
			}
		}); cerr != nil || err != nil {
			closeAll(fds)
			return errors.Join(cerr, err)
		}
	}
	defer closeAll(fds)
	_, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil)
	return err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// Receive takes the sockets of these ports, in their order.
func Receive(conn *net.UnixConn, ports []banger.Published, until time.Time) (sockets []banger.Socket, err error) {
	if err := conn.SetReadDeadline(until); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.SetReadDeadline(time.Time{})) }()
	oob := make([]byte, unix.CmsgSpace(4*maxPassed))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		more, _ := unix.ParseUnixRights(&m) // none where it is another kind of message
		fds = append(fds, more...)
	}
	if len(fds) != len(ports) {
		closeAll(fds)
		return nil, fmt.Errorf("%d sockets came in place of %d", len(fds), len(ports))
	}
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		c, err := take(os.NewFile(uintptr(fd), ports[i].String()), ports[i])
		if err != nil {
			closeAll(fds[i+1:])
			Close(sockets)
			return nil, err
		}
		sockets = append(sockets, banger.Socket{Published: ports[i], Conn: c})
	}
	return sockets, nil
}

// take makes a socket of a descriptor, which it closes.
func take(f *os.File, p banger.Published) (io.Closer, error) {
	defer f.Close() // the functions below duplicate it
	if p.Protocol == "udp" {
		c, err := net.FilePacketConn(f)
		if err != nil {
			return nil, err
		}
		if u, ok := c.(*net.UDPConn); ok {
			return u, nil
		}
		return nil, errors.Join(errors.New("a socket of another kind came"), c.Close())
	}
	c, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if l, ok := c.(*net.TCPListener); ok {
		return l, nil
	}
	return nil, errors.Join(errors.New("a socket of another kind came"), c.Close())
}

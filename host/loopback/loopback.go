// Package loopback listens on this host's own addresses, for this user alone: it asks the
// kernel who is at the other end of a connection, and refuses everybody else. Any user of
// a host may connect to 127.0.0.1, and no permission of a file keeps them away.
//
// It knows nothing of what is served.
package loopback

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
)

// Addresses are where Listen listens.
func Addresses(port int) []string {
	return []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), net.JoinHostPort("::1", strconv.Itoa(port))}
}

// Listen listens on a port of 127.0.0.1 and of ::1, unless the host has no such address.
// Port 0 is one that is free on both. At least one listener is returned, or an error.
func Listen(port int) ([]net.Listener, error) {
	var all []net.Listener
	for _, address := range Addresses(port) {
		if port == 0 && len(all) > 0 {
			address = Addresses(all[0].Addr().(*net.TCPAddr).Port)[1]
		}
		l, err := net.Listen("tcp", address)
		if absent(err) {
			continue
		}
		if err != nil {
			for _, l := range all {
				err = errors.Join(err, l.Close())
			}
			return nil, err
		}
		all = append(all, l)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("this host has neither 127.0.0.1 nor ::1")
	}
	return all, nil
}

// absent reports whether an error means that the host has no such address, so that nobody
// else has it either.
func absent(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// Free returns a port that nobody listens on, the first after port.
func Free(port int) (int, error) {
	for n := port + 1; n <= min(port+100, 65535); n++ {
		all, err := Listen(n)
		for _, l := range all {
			_ = l.Close()
		}
		if err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("none of the ports after %d is free", port)
}

// refuseTime bounds how long a stranger is told why, and strangers how many are at a time.
// Of all who are refused one is told of in noticeTime: otherwise whoever tries again and again
// fills a log. roomPause is how long a process waits that has no room for a connection.
const (
	refuseTime = time.Second
	strangers  = 8
	noticeTime = time.Minute
	roomPause  = 100 * time.Millisecond
)

// Mine returns a listener whose connections all come from this process's user. Others get
// refusal, if they wait for it, and noticed is told of one a minute. It outlasts a time in
// which the process has no file descriptors left.
func Mine(l net.Listener, refusal string, noticed func(error)) net.Listener {
	return &mine{Listener: l, refusal: refusal, noticed: noticed, telling: make(chan struct{}, strangers)}
}

type mine struct {
	net.Listener
	refusal string
	noticed func(error)
	telling chan struct{}

	mu   sync.Mutex
	told time.Time
}

// Accept implements net.Listener.
func (l *mine) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if passes(err) {
			time.Sleep(roomPause)
			continue
		}
		if err != nil {
			return nil, err
		}
		uid, err := User(c)
		if err == nil && uid != os.Getuid() {
			err = fmt.Errorf("user %d connected to %s, which is for user %d", uid, c.LocalAddr(), os.Getuid())
		}
		if err == nil {
			return c, nil
		}
		l.notice(err)
		select {
		case l.telling <- struct{}{}:
			go l.refuse(c)
		default:
			_ = c.Close()
		}
	}
}

// passes reports whether a listener works on after an error.
func passes(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (l *mine) notice(err error) {
	l.mu.Lock()
	quiet := !l.told.IsZero() && time.Since(l.told) < noticeTime
	if !quiet {
		l.told = time.Now()
	}
	l.mu.Unlock()
	if !quiet {
		l.noticed(err)
	}
}

// refuse tells a stranger that nothing is for them. What was asked is read first:
// otherwise the kernel resets the connection, and with it the answer.
func (l *mine) refuse(c net.Conn) {
	defer func() { <-l.telling }()
	_ = c.SetDeadline(time.Now().Add(refuseTime))
	_, _ = c.Read(make([]byte, 4096))
	_, _ = c.Write([]byte(l.refusal))
	_ = c.Close()
}

// The kernel's structures for a question about one socket (sock_diag(7)).
const (
	byFamily    = 20 // SOCK_DIAG_BY_FAMILY
	inetDiag    = 4  // NETLINK_SOCK_DIAG
	ipv4, ipv6  = 2, 10
	tcp         = 6
	idSize      = 48
	requestSize = 8 + idSize
	answerSize  = 4 + idSize + 20
	uidAt       = 4 + idSize + 12
	inodeAt     = 4 + idSize + 16
)

// User returns the id of the user whose process made the other end of a connection that
// doesn't leave this host. It is an error if nobody has it open any more: the kernel then
// gives the socket to root.
func User(c net.Conn) (uid int, err error) {
	near, ok := c.LocalAddr().(*net.TCPAddr)
	far, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		return -1, fmt.Errorf("a connection from %s isn't TCP", c.RemoteAddr())
	}
	req := nl.NewNetlinkRequest(byFamily, 0)
	req.AddData(question(far, near))
	answers, err := req.Execute(inetDiag, 0)
	if err != nil {
		return -1, fmt.Errorf("the kernel doesn't say who connected from %s: %w", far, err)
	}
	if len(answers) != 1 || len(answers[0]) < answerSize || !between(answers[0], far, near) {
		return -1, fmt.Errorf("the kernel doesn't say who connected from %s", far)
	}
	if binary.NativeEndian.Uint32(answers[0][inodeAt:]) == 0 {
		return -1, fmt.Errorf("who connected from %s has left", far)
	}
	return int(binary.NativeEndian.Uint32(answers[0][uidAt:])), nil
}

// question asks for the socket of one end of a connection.
func question(local, remote *net.TCPAddr) socket {
	q := make(socket, requestSize)
	q[0], q[1] = ipv6, tcp
	src, dst := local.IP.To16(), remote.IP.To16()
	if local.IP.To4() != nil {
		q[0], src, dst = ipv4, local.IP.To4(), remote.IP.To4()
	}
	binary.NativeEndian.PutUint32(q[4:], 0xffffffff) // in any state
	id := q[8:]
	binary.BigEndian.PutUint16(id, uint16(local.Port))
	binary.BigEndian.PutUint16(id[2:], uint16(remote.Port))
	copy(id[4:20], src)
	copy(id[20:36], dst)
	for i := 40; i < idSize; i++ {
		id[i] = 0xff // no cookie
	}
	return q
}

// between reports whether an answer is of the socket from local to remote. A socket of IPv6
// may be connected to 127.0.0.1, and then has addresses of IPv6 that stand for those of IPv4.
func between(answer []byte, local, remote *net.TCPAddr) bool {
	id, size := answer[4:], net.IPv6len
	if answer[0] == ipv4 {
		size = net.IPv4len
	}
	return int(binary.BigEndian.Uint16(id)) == local.Port && int(binary.BigEndian.Uint16(id[2:])) == remote.Port &&
		net.IP(id[4:4+size]).Equal(local.IP) && net.IP(id[20:20+size]).Equal(remote.IP)
}

type socket []byte

// Len and Serialize implement nl.NetlinkRequestData.
func (s socket) Len() int          { return len(s) }
func (s socket) Serialize() []byte { return s }

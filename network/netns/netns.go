// Package netns gives a VMM that knows only TAP devices (Firecracker) a TAP in a network
// namespace of its own: the host doesn't see it, and nothing is left when the VMM ends.
// An ordinary user can make such a namespace within a user namespace
// (user_namespaces(7)). Frames pass through a packet socket on the TAP, which is made in
// the namespace and handed out. The VMM has that socket open, too, without using it, so
// that a later process can take it from there. To make another socket, that process would
// have to join the namespace, and a program with several threads can't join a user
// namespace (setns(2)).
//
// It knows nothing of what is done with the frames, or what the VMM is.
package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/host/unixsock"
)

const (
	// Become is the argument by which a child is recognised.
	Become      = "--become"
	FramesFD    = 3 // the VMM's descriptor of the packet socket, for later processes to take
	handOver    = 10 * time.Second
	tunDevice   = "/dev/net/tun"
	noIPv6      = "/proc/sys/net/ipv6/conf/%s/disable_ipv6"
	packetOut   = 23     // PACKET_IGNORE_OUTGOING (packet(7), linux/if_packet.h)
	anyProtocol = 0x0300 // ETH_P_ALL in network byte order
)

// Command returns a command that starts a VMM in a network namespace with a TAP. It runs
// this program, with dir as the first argument and Become as the second, which must then
// call Enter. Call received after starting it: it returns the socket.
func Command(dir, tap string, owner int, argv []string) (cmd *exec.Cmd, received func() (*os.File, error), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	ours, theirs, err := unixsock.Pair()
	if err != nil {
		return nil, nil, err
	}
	cmd = exec.Command(self, append([]string{dir, Become, tap, strconv.Itoa(owner)}, argv...)...)
	cmd.ExtraFiles = []*os.File{theirs} // FramesFD
	cmd.SysProcAttr = ownNamespaces()
	return cmd, func() (*os.File, error) {
		defer ours.Close()
		_ = theirs.Close() // the child has its own
		return receiveFile(ours)
	}, nil
}

// ownNamespaces makes a process start in a network namespace of its own. Unless we are
// root, that takes a user namespace, too: the process is the same user in it, and has the
// capabilities to make a TAP.
func ownNamespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}
	}
	return attr
}

// Enter is the child; args are those after Become. It makes the TAP and the socket, hands
// the socket over, drops all capabilities that the VMM doesn't need, and becomes the VMM.
// It returns only on error.
func Enter(args []string) error {
	usage := errors.New("usage: banger-shim DIR --become TAP UID VMM [ARGUMENT]")
	if len(args) < 3 {
		return usage
	}
	tap, argv := args[0], args[2:]
	owner, err := strconv.Atoi(args[1])
	if err != nil {
		return usage
	}
	if owner == 0 {
		owner = os.Getuid()
	}
	runtime.LockOSThread() // each thread has its own capabilities
	frames, err := makeTap(tap, owner)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(FramesFD, []byte{0}, unix.UnixRights(frames), nil, 0); err != nil {
		return fmt.Errorf("hand over the packet socket: %w", err)
	}
	if err := unix.Dup3(frames, FramesFD, 0); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", argv[0], unix.Exec(argv[0], argv, os.Environ()))
}

// makeTap makes a TAP that stays and belongs to our user, and returns a packet
// socket on it (netdevice(7), packet(7), the kernel's networking/tuntap.rst).
func makeTap(name string, owner int) (frames int, err error) {
	tun, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", tunDevice, err)
	}
	defer unix.Close(tun) // the device stays until the namespace goes
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, ifr); err != nil {
		return -1, fmt.Errorf("make the TAP device %s: %w", name, err)
	}
	for request, value := range map[uint]int{unix.TUNSETOWNER: owner, unix.TUNSETPERSIST: 1} {
		if err := unix.IoctlSetInt(tun, request, value); err != nil {
			return -1, fmt.Errorf("keep the TAP device %s: %w", name, err)
		}
	}
	// The namespace's own network stack must not use it. An error means there is no IPv6.
	_ = os.WriteFile(fmt.Sprintf(noIPv6, name), []byte("1"), 0)
	ctl, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ctl)
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(ctl, unix.SIOCSIFFLAGS, ifr); err != nil {
		return -1, fmt.Errorf("bring %s up: %w", name, err)
	}
	return packetSocket(name)
}

// packetSocket returns a packet socket that reads a device's frames and writes to it.
func packetSocket(name string) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, packetOut, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: anyProtocol, Ifindex: int(ifr.Uint32())})
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("packet socket on %s: %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

// Probe tries whether this user can have a VMM with a TAP; exe is the shim's program. The
// error says why not.
func Probe(ctx context.Context, exe string) error {
	ours, theirs, err := unixsock.Pair()
	if err != nil {
		return err
	}
	defer ours.Close()
	// Let it become the shim again, which does nothing without arguments.
	cmd := exec.CommandContext(ctx, exe, "/", Become, "tap0", "0", exe)
	cmd.ExtraFiles, cmd.SysProcAttr = []*os.File{theirs}, ownNamespaces()
	out, err := cmd.CombinedOutput()
	_ = theirs.Close() // else we would wait for ever if the child sent nothing
	if frames, rerr := receiveFile(ours); rerr == nil {
		return frames.Close()
	}
	return fmt.Errorf("make a TAP in a namespace: %w: %.200s", err, bytes.TrimSpace(out))
}

// Join makes a packet socket on the TAP in a network namespace. It takes root.
func Join(ns *os.File, tap string) (*os.File, error) {
	type result struct {
		fd  int
		err error
	}
	got := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in the namespace, and ends here
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		fd := -1
		if err == nil {
			fd, err = packetSocket(tap)
		}
		got <- result{fd, err}
	}()
	r := <-got
	if r.err != nil {
		return nil, r.err
	}
	return os.NewFile(uintptr(r.fd), "frames"), nil
}

// receiveFile waits for one descriptor. io.EOF means that the child has ended.
func receiveFile(conn *net.UnixConn) (*os.File, error) {
	if err := conn.SetReadDeadline(time.Now().Add(handOver)); err != nil {
		return nil, err
	}
	n, f, err := unixsock.Receive(conn, make([]byte, 1))
	switch {
	case err != nil:
		return nil, err
	case n == 0:
		return nil, io.ErrUnexpectedEOF
	case f == nil:
		return nil, errors.New("no descriptor came")
	}
	return f, nil
}

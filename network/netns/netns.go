// Package netns gives a VMM that knows TAP devices only (Firecracker) one in a
// network namespace of its own: nothing of it is seen on the host, and nothing is
// left when it ends. A user may make such a namespace within a user namespace
// (user_namespaces(7)). The frames pass through a packet socket on the TAP, made in
// there and handed out. The VMM holds that socket too, untouched, for whoever comes
// later to take: to make another takes joining the namespace, which a program of
// several threads can't do to a user namespace (setns(2)).
//
// It refuses to know what is done with the frames, and what the VMM is.
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

	"banger"
	"banger/proc"
	"banger/unixsock"
)

const (
	// Become is the argument by which a child is recognised.
	Become      = "--become"
	framesFD    = 3 // of the VMM
	handOver    = 10 * time.Second
	tunDevice   = "/dev/net/tun"
	noIPv6      = "/proc/sys/net/ipv6/conf/%s/disable_ipv6"
	packetOut   = 23     // PACKET_IGNORE_OUTGOING (packet(7), linux/if_packet.h)
	anyProtocol = 0x0300 // ETH_P_ALL in network byte order
)

// Command returns what starts a VMM in a network namespace with a TAP, by way of
// this program, which must call Enter when its second argument is Become; dir is the
// first. received is to be called when it was started, and returns the socket.
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
	cmd.ExtraFiles = []*os.File{theirs} // framesFD
	cmd.SysProcAttr = ownNamespaces()
	return cmd, func() (*os.File, error) {
		defer ours.Close()
		_ = theirs.Close() // the child has its own
		return receiveFile(ours)
	}, nil
}

// ownNamespaces has a process start in a network namespace of its own, and, where
// that takes a user namespace, in one where it is the same user, with what it needs
// to make a TAP.
func ownNamespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNET}
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}
	}
	return attr
}

// Enter is the child, with the arguments after Become: it makes the TAP and the socket, hands that over, drops what
// the VMM needn't be able to, and becomes the VMM. It returns what went wrong.
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
	runtime.LockOSThread() // capabilities are a thread's
	frames, err := makeTap(tap, owner)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(framesFD, []byte{0}, unix.UnixRights(frames), nil, 0); err != nil {
		return fmt.Errorf("hand over the packet socket: %w", err)
	}
	if err := unix.Dup3(frames, framesFD, 0); err != nil {
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
	// The namespace's own stack has no business on it; without IPv6 there is nothing to keep quiet.
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

// packetSocket returns one that reads what comes from a device, and writes to it.
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

// Probe tries whether this user may have a VMM with a TAP; exe is the shim's
// program. The error says why not.
func Probe(ctx context.Context, exe string) error {
	ours, theirs, err := unixsock.Pair()
	if err != nil {
		return err
	}
	defer ours.Close()
	// What it becomes is the shim again, which has nothing to do without arguments.
	cmd := exec.CommandContext(ctx, exe, "/", Become, "tap0", "0", exe)
	cmd.ExtraFiles, cmd.SysProcAttr = []*os.File{theirs}, ownNamespaces()
	out, err := cmd.CombinedOutput()
	_ = theirs.Close() // so that a child that sent nothing isn't waited for
	if frames, rerr := receiveFile(ours); rerr == nil {
		return frames.Close()
	}
	return fmt.Errorf("make a TAP in a namespace: %w: %.200s", err, bytes.TrimSpace(out))
}

// Rejoin returns a packet socket on the TAP of a living VMM; owner as in Command.
func Rejoin(vmm banger.Process, tap string, owner int) (*os.File, error) {
	if owner != 0 { // its jailer closed what it had
		return joinAsRoot(vmm, tap)
	}
	return takeFile(vmm, framesFD)
}

// takeFile duplicates a descriptor of a process (pidfd_getfd(2)).
func takeFile(p banger.Process, fd int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	if !proc.Alive(p) {
		return nil, fmt.Errorf("process %d: %w", p.PID, os.ErrNotExist)
	}
	got, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return nil, fmt.Errorf("take descriptor %d of process %d: %w", fd, p.PID, err)
	}
	return os.NewFile(uintptr(got), "frames"), nil
}

// joinAsRoot makes a packet socket in a process's network namespace.
func joinAsRoot(p banger.Process, tap string) (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if !proc.Alive(p) {
		return nil, fmt.Errorf("process %d: %w", p.PID, os.ErrNotExist)
	}
	type result struct {
		fd  int
		err error
	}
	got := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
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

// receiveFile waits for the one descriptor that comes. An end of file means that
// the child has ended.
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

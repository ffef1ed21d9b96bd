// Package channel opens the byte pipe between guest and host on which package link makes
// streams. A hypervisor provides either a virtio-serial port or a virtio socket (vsock).
// Both lose what is written while no host is connected, and both go on with the next
// host: link is made for that.
//
// It knows nothing of what is sent, or of which kind a machine has.
package channel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest/agent/quick"
	"banger/guest/agent/uevent"
	"banger/guest/link"
)

// The kinds of channels.
const (
	Virtio = "virtio" // the virtio-serial port called portName
	Vsock  = "vsock"  // vsockPort on a vsock
)

const (
	portName = "banger.agent"
	// vsockPort is below 1024, so only root can listen on it: no other user of the guest can
	// take a dead agent's place.
	vsockPort = 512
	// wait bounds the wait for the device, whose driver is being loaded when the agent
	// starts, and for a dead agent's hold on it to end.
	wait = 30 * time.Second
)

// Channel is an open one.
type Channel struct {
	io.ReadWriteCloser
	hungUp func() (bool, error)
}

// HungUp reports whether no host is connected. After an error it never can tell.
func (c *Channel) HungUp() (bool, error) { return c.hungUp() }

// Open opens the machine's channel.
func Open(kind string) (*Channel, error) {
	switch kind {
	case Virtio:
		f, err := openPort(portName)
		if err != nil {
			return nil, err
		}
		return &Channel{link.Port(quick.New(f)), func() (bool, error) { return portHungUp(f) }}, nil
	case Vsock:
		v, err := listen(vsockPort)
		if err != nil {
			return nil, err
		}
		return &Channel{v, v.hungUp}, nil
	}
	return nil, fmt.Errorf("no channel %q", kind)
}

// portHungUp asks the kernel whether the host's end of a port is closed.
func portHungUp(port *os.File) (hungUp bool, err error) {
	raw, err := port.SyscallConn()
	if err != nil {
		return false, err
	}
	cerr := raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, err = unix.Poll(p, 0)
		hungUp = p[0].Revents&unix.POLLHUP != 0
	})
	if errors.Is(err, unix.EINTR) {
		err = nil
	}
	return hungUp, errors.Join(cerr, err)
}

func openPort(name string) (*os.File, error) {
	const class = "/sys/class/virtio-ports"
	events := uevent.Listen("virtio-ports")
	defer events.Close()
	for end := time.Now().Add(wait); ; events.Wait(uevent.LookAgain) {
		ports, _ := os.ReadDir(class)
		for _, p := range ports {
			got, err := os.ReadFile(class + "/" + p.Name() + "/name")
			if err == nil && strings.TrimSpace(string(got)) == name {
				return openPortDevice("/dev/"+p.Name(), end)
			}
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no virtio port %q after %v", name, wait)
		}
	}
}

// openPortDevice opens a port. It tries again while a dead agent still has it, or the
// kernel hasn't made the node yet.
func openPortDevice(dev string, end time.Time) (*os.File, error) {
	for {
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		early := errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT)
		if !early || time.Now().After(end) {
			return f, err
		}
		time.Sleep(time.Millisecond)
	}
}

package channel

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest/agent/quick"
	"banger/guest/agent/uevent"
)

// listen waits for the vsock driver, listens on a port of it (vsock(7)), and
// returns the pipe that the host's connections make.
func listen(port uint32) (*pipe, error) {
	events := uevent.Listen("module") // told when the module is up
	defer events.Close()
	for end := time.Now().Add(wait); ; events.Wait(uevent.LookAgain) {
		fd, err := bind(port)
		if err == nil {
			p := newPipe()
			go accept(fd, p)
			return p, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("vsock port %d: %w", port, err)
		}
	}
}

func bind(port uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was written
		return -1, err
	}
	return fd, nil
}

// accept takes connections for the agent's life, but only from the host: with a loopback
// vsock any program in the guest could give orders to the agent.
func accept(listener int, p *pipe) {
	for {
		fd, from, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			time.Sleep(10 * time.Millisecond) // interrupted, or out of descriptors
			continue
		}
		if vm, ok := from.(*unix.SockaddrVM); ok && vm.CID == unix.VMADDR_CID_HOST {
			p.take(quick.New(os.NewFile(uintptr(fd), "vsock")))
		} else {
			_ = unix.Close(fd)
		}
	}
}

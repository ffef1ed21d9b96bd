package main

import (
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// agentPort is where the host looks for the agent on a vsock.
const agentPort = 512

// accept waits for the host's connection, in the agent's place.
func (c *channel) accept(end time.Time) (port, error) {
	if c.waits < 0 {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: agentPort})
		if err == nil {
			err = unix.Listen(fd, 8)
		}
		if err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
		c.waits = fd
	}
	ready := []unix.PollFd{{Fd: int32(c.waits), Events: unix.POLLIN}}
	if _, err := unix.Poll(ready, int(max(0, time.Until(end)).Milliseconds())); err != nil {
		return nil, err
	}
	fd, _, err := unix.Accept4(c.waits, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "vsock"), nil
}

// cut ends the connection in the middle of a frame, and takes the next.
func (c *channel) cut(until time.Time, n *atomic.Int64) error {
	for time.Now().Before(until) {
		if c.port != nil {
			if _, err := c.write(torn(), until); err != nil {
				return err
			}
			_ = c.port.Close()
			c.port = nil
		}
		if err := c.take(); err != nil {
			return err
		}
		n.Add(1)
	}
	return nil
}

// callHost begins connections to the host, which takes none, and doesn't wait for its
// answers.
func callHost(until time.Time, n *atomic.Int64) error {
	for port := uint32(0); time.Now().Before(until); {
		var calls []int
		for range 1000 {
			fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				break
			}
			port++
			_ = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port})
			calls = append(calls, fd)
			n.Add(1)
		}
		for _, fd := range calls {
			_ = unix.Close(fd)
		}
	}
	return nil
}

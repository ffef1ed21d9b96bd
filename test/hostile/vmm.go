package main

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// beVMM is a guest without a machine: in place of a VMM it listens for a shim, in its
// working directory, and does on the shim's sockets what a guest of a processor's own
// speed would do. It has no kernel, so what takes one is left out.
func beVMM(text string) error {
	var what orders
	if err := json.Unmarshal([]byte(text), &what); err != nil {
		return err
	}
	channels, err := net.Listen("unix", "chan.sock")
	if err != nil {
		return err
	}
	consoles, err := net.Listen("unix", "console.sock")
	if err != nil {
		return err
	}
	n := &network{orders: what, alone: true}
	if n.cable, err = plugIn("net-vmm.sock", "net-shim.sock", what); err != nil {
		return err
	}
	conn, err := channels.Accept()
	if err != nil {
		return err
	}
	log, err := consoles.Accept()
	if err != nil {
		return err
	}
	openConsole = func() (io.WriteCloser, error) { return kept{log}, nil }
	report = func(text string) { _, _ = io.WriteString(os.Stdout, text) } // into the VMM's log
	raw := slices.DeleteFunc(n.attacks(), func(a attack) bool {
		return slices.Contains([]string{"unread connections", "more unread connections", "filled connections", "short connections", "names"}, a.name)
	})
	return do(what.Slice, raw, []attack{{"console noise", consoleNoise}, {"console words", consoleWords}}, (&channel{port: conn}).attacks())
}

// kept isn't closed by who has it for a while.
type kept struct{ io.Writer }

func (kept) Close() error { return nil }

// plugIn joins the cable of Unix datagrams.
func plugIn(own, shims string, what orders) (*cable, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: own}); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: shims})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return nil, err
		}
	}
	c := &cable{fd: fd, own: net.HardwareAddr{2, 1, 2, 3, 4, 5}, gateway: everybody, address: [4]byte{10, 0, 2, 15}}
	copy(c.router[:], net.ParseIP(what.Gateway).To4())
	copy(c.outside[:], net.ParseIP(what.Outside).To4())
	// As a kernel would.
	c.gateway = c.ask()
	return c, nil
}

// ask returns the gateway's hardware address, everybody's where it doesn't say.
func (c *cable) ask() net.HardwareAddr {
	_, _ = unix.Write(c.fd, c.whoHas(c.router))
	for end, buf := time.Now().Add(5*time.Second), make([]byte, 2048); time.Now().Before(end); {
		size, _, err := unix.Recvfrom(c.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		if size >= 42 && buf[12] == 8 && buf[13] == 6 {
			return net.HardwareAddr(slices.Clone(buf[6:12]))
		}
	}
	return everybody
}

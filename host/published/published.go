// Package published is the host's side of published ports: the sockets that listen for them, and
// which ports are free.
//
// It knows nothing of what is behind them.
package published

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"syscall"

	"banger"
)

// Listen opens the sockets of a port, one for each of its addresses. If a program has the
// port, the error names one that is free.
func Listen(p banger.Published) ([]banger.Socket, error) {
	sockets, err := listen(p)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, taken(p, func(banger.Published) bool { return false })
	}
	return sockets, err
}

func listen(p banger.Published) (sockets []banger.Socket, err error) {
	for _, address := range p.Addresses() {
		var c io.Closer
		var lc net.ListenConfig
		at := net.JoinHostPort(address, strconv.Itoa(p.Port))
		if p.Protocol == "udp" {
			c, err = lc.ListenPacket(context.Background(), "udp"+family(address), at)
		} else {
			c, err = lc.Listen(context.Background(), "tcp"+family(address), at)
		}
		switch {
		case err == nil:
			sockets = append(sockets, banger.Socket{Published: p, Conn: c})
		case p.Address == "" && address == "::1" && len(sockets) > 0 && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)):
			// This host has no IPv6.
		default:
			Close(sockets)
			return nil, said(p, address, err)
		}
	}
	return sockets, nil
}

// family keeps 0.0.0.0 from meaning IPv6, too.
func family(address string) string {
	if ip := net.ParseIP(address); ip != nil && ip.To4() != nil {
		return "4"
	}
	return "6"
}

// said is what the kernel said, for a person.
func said(p banger.Published, address string, err error) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	switch {
	case !ok || errno == syscall.EADDRINUSE:
		return err
	case errno == syscall.EACCES:
		return banger.Errorf(banger.CodeForbidden, "port %d of %s: %w", p.Port, address, errno).
			WithHint("ports below 1024 want root, or a lower number in /proc/sys/net/ipv4/ip_unprivileged_port_start")
	}
	return banger.Errorf(banger.CodeUnavailable, "port %d of %s: %w", p.Port, address, errno)
}

// Close closes sockets.
func Close(sockets []banger.Socket) {
	for _, s := range sockets {
		_ = s.Conn.Close() // it was only listening
	}
}

// Host is this host's ports.
type Host struct{}

var _ banger.HostPorts = Host{}

// tries bounds how many ports are tried for one that is free on all addresses.
const tries = 64

// Free implements banger.HostPorts.
func (Host) Free(p banger.Published, used func(banger.Published) bool) (banger.Published, error) {
	if p.Port != 0 {
		if used(p) {
			return p, taken(p, used)
		}
		sockets, err := listen(p)
		Close(sockets)
		if errors.Is(err, syscall.EADDRINUSE) {
			return p, taken(p, used)
		}
		return p, err
	}
	for range tries {
		// The kernel chooses one on the first address; the others may not have it.
		first := p
		first.Address = p.Addresses()[0]
		sockets, err := listen(first)
		if err != nil {
			return p, err
		}
		q := p
		q.Port = portOf(sockets[0].Conn)
		Close(sockets)
		if !used(q) && free(q) {
			return q, nil
		}
	}
	return p, banger.Errorf(banger.CodeUnavailable, "no port of this host is free")
}

func portOf(c io.Closer) int {
	switch c := c.(type) {
	case *net.TCPListener:
		return c.Addr().(*net.TCPAddr).Port
	case *net.UDPConn:
		return c.LocalAddr().(*net.UDPAddr).Port
	}
	return 0
}

func free(p banger.Published) bool {
	sockets, err := listen(p)
	Close(sockets)
	return err == nil
}

// taken is the error of a port that somebody has: it names the next one that nobody has.
func taken(p banger.Published, used func(banger.Published) bool) error {
	err := banger.Errorf(banger.CodeConflict, "port %d of this host is taken", p.Port)
	q := p
	for q.Port = p.Port + 1; q.Port <= min(p.Port+tries, 65535); q.Port++ {
		if !used(q) && free(q) {
			return err.WithHint("%d is free: -p %s", q.Port, q)
		}
	}
	return err.WithHint("-p %d takes any that is free", p.Guest)
}

// Take implements banger.HostPorts.
func (Host) Take(_ string, ports []banger.Published) (all []banger.Socket, err error) {
	for _, p := range ports {
		sockets, err := Listen(p)
		if err != nil {
			Close(all)
			return nil, err
		}
		all = append(all, sockets...)
	}
	return all, nil
}

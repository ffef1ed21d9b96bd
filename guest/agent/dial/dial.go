package dial

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/account"
	"banger/guest/flow"
)

// timeout bounds how long a connection may take to be made.
const timeout = 30 * time.Second

// Dial makes the connection of a request.
func Dial(ctx context.Context, req flow.DialRequest) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch req.Network {
	case "tcp", "udp":
		return dialPort(ctx, req.Network, req.Address)
	case "unix":
		who, err := account.Lookup("", req.User)
		if err != nil {
			return nil, guest.Errorf(guest.CodeInvalid, "%v", err)
		}
		var conn net.Conn
		err = as(who, func() error {
			conn, err = new(net.Dialer).DialContext(ctx, "unix", req.Address)
			return err
		})
		return conn, said(err)
	}
	return nil, guest.Errorf(guest.CodeInvalid, "no network is called %q", req.Network)
}

func dialPort(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, guest.Errorf(guest.CodeInvalid, "%v", err)
	}
	hosts := []string{host}
	if host == "localhost" || host == "" {
		hosts = local(network, port)
	}
	var first error
	for _, host := range hosts {
		conn, err := new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(host, port))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, said(first)
}

// local lists what "localhost" means for a port: 127.0.0.1 or ::1 if its listener is bound
// to that or to all addresses, else the address that it is bound to, then those two. Of a
// datagram socket the first one counts, as nobody answers.
func local(network, port string) []string {
	hosts := []string{"127.0.0.1", "::1"}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return hosts
	}
	all := bound(network, uint16(n))
	has := func(address string, unspecified netip.Addr) bool {
		return slices.Contains(all, netip.MustParseAddr(address)) || slices.Contains(all, unspecified)
	}
	switch {
	case has("127.0.0.1", netip.IPv4Unspecified()) || len(all) == 0:
		return hosts
	case has("::1", netip.IPv6Unspecified()):
		return []string{"::1", "127.0.0.1"}
	}
	return append([]string{all[0].String()}, hosts...)
}

// said is what the kernel or the resolver said, without what the caller knows.
func said(err error) error {
	if err == nil {
		return nil
	}
	code := guest.CodeUnavailable
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			code = guest.CodeNotFound
		}
		return guest.Errorf(code, "%s: %s", dns.Name, dns.Err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		code = guest.CodeNotFound
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return guest.Errorf(code, "%v", errno)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return guest.Errorf(code, "%v", unix.ETIMEDOUT)
	}
	return guest.Errorf(code, "%v", err)
}

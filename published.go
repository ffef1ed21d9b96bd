package banger

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Published is a port of the host that leads to a port of the guest.
type Published struct {
	Address  string `json:"address,omitempty"` // of the host; empty: 127.0.0.1 and ::1
	Port     int    `json:"port,omitempty"`    // of the host; in a request 0 is one that is free
	Guest    int    `json:"guest"`             // of the guest
	Protocol string `json:"protocol"`          // "tcp" or "udp"
}

// MaxPublished bounds how many ports of a VM are published.
const MaxPublished = 64

// ParsePublished reads [[address:]port:]guest[/protocol], as docker writes it. An address
// of IPv6 stands in brackets.
func ParsePublished(text string) (p Published, err error) {
	bad := func(why string) (Published, error) {
		return p, Errorf(CodeInvalid, "%.80q publishes no port: %s", text, why).
			WithHint("8080:80 leads port 8080 of this host to port 80 of the VM, 80 any free port; 8080:80/udp is UDP")
	}
	rest, protocol, given := strings.Cut(text, "/")
	if p.Protocol = protocol; !given {
		p.Protocol = "tcp"
	}
	if p.Protocol != "tcp" && p.Protocol != "udp" {
		return bad("the protocol is tcp or udp")
	}
	if strings.Contains(rest, "-") {
		return bad("ranges aren't known, publish each port")
	}
	guest, host := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host, guest = rest[:i], rest[i+1:]
	}
	if p.Guest, err = portNumber(guest); err != nil {
		return bad("the VM's port: " + err.Error())
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		p.Address, host = strings.TrimSuffix(strings.TrimPrefix(host[:i], "["), "]"), host[i+1:]
		if net.ParseIP(p.Address) == nil {
			return bad(fmt.Sprintf("%.60q is no address", p.Address))
		}
	}
	if host != "" && host != "0" {
		if p.Port, err = portNumber(host); err != nil {
			return bad("this host's port: " + err.Error())
		}
	}
	return p, nil
}

func portNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%.20q isn't a number from 1 to 65535", s)
	}
	return int(n), nil
}

// Check says what no request and no record may have.
func (p Published) Check() error {
	switch {
	case p.Guest < 1 || p.Guest > 65535 || p.Port < 0 || p.Port > 65535:
		return Errorf(CodeInvalid, "a port is published by numbers from 1 to 65535, not %d and %d", p.Port, p.Guest)
	case p.Protocol != "tcp" && p.Protocol != "udp":
		return Errorf(CodeInvalid, "a port is published by tcp or udp, not %.20q", p.Protocol)
	case p.Address != "" && net.ParseIP(p.Address) == nil:
		return Errorf(CodeInvalid, "a port is published on an IP address of this host, not %.60q", p.Address)
	}
	return nil
}

// Addresses lists where the host listens for it.
func (p Published) Addresses() []string {
	if p.Address != "" {
		return []string{p.Address}
	}
	return []string{"127.0.0.1", "::1"}
}

// Local reports whether only programs of this host reach it.
func (p Published) Local() bool { return p.Address == "" || net.ParseIP(p.Address).IsLoopback() }

// Clashes reports whether both want the same port of the host.
func (p Published) Clashes(q Published) bool {
	return p.Port != 0 && p.Port == q.Port && p.Protocol == q.Protocol && slices.ContainsFunc(p.Addresses(), func(a string) bool {
		return slices.ContainsFunc(q.Addresses(), func(b string) bool {
			x, y := net.ParseIP(a), net.ParseIP(b)
			return x.Equal(y) || x.IsUnspecified() || y.IsUnspecified()
		})
	})
}

// String writes it as ParsePublished reads it.
func (p Published) String() string {
	s := strconv.Itoa(p.Guest)
	if p.Port != 0 || p.Address != "" {
		s = strconv.Itoa(p.Port) + ":" + s
	}
	if strings.Contains(p.Address, ":") {
		s = "[" + p.Address + "]:" + s
	} else if p.Address != "" {
		s = p.Address + ":" + s
	}
	if p.Protocol == "udp" {
		s += "/udp"
	}
	return s
}

// covers reports whether q asks for nothing that p isn't already; with a port of 0 any will do.
func (p Published) covers(q Published) bool {
	return p.Guest == q.Guest && p.Protocol == q.Protocol && p.Address == q.Address && (q.Port == 0 || q.Port == p.Port)
}

// Publish returns what is published of list when more is added and less taken away. Adding
// what is there changes nothing; taking away what isn't is CodeNotFound.
func Publish(list, more, less []Published) ([]Published, error) {
	list = slices.Clone(list)
	for _, q := range less {
		if q.Address == "" && q.Port == 0 { // by the guest's port alone: wherever it is
			q.Address, q.Port = "any", -1
		}
		n := len(list)
		list = slices.DeleteFunc(list, func(p Published) bool {
			return p.covers(q) || q.Port == -1 && p.Guest == q.Guest && p.Protocol == q.Protocol
		})
		if len(list) == n {
			if q.Port == -1 {
				q.Address, q.Port = "", 0
			}
			return nil, Errorf(CodeNotFound, "the port %s isn't published", q).WithHint("`banger ps` lists what is")
		}
	}
	for _, q := range more {
		if err := q.Check(); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(list, func(p Published) bool { return p.covers(q) }) {
			continue
		}
		if slices.ContainsFunc(list, q.Clashes) {
			return nil, Errorf(CodeConflict, "port %d of this host would lead to two ports of the VM", q.Port)
		}
		list = append(list, q)
	}
	if len(list) > MaxPublished {
		return nil, Errorf(CodeInvalid, "%d published ports are too many: a VM can have %d", len(list), MaxPublished)
	}
	if len(list) == 0 {
		return nil, nil
	}
	return list, nil
}

// HostPorts finds out about ports of the host.
type HostPorts interface {
	// Free returns p with a port of the host that is free and not in taken. CodeConflict, with
	// a free one named, when the one asked for isn't.
	Free(p Published, taken func(Published) bool) (Published, error)
	// Take returns sockets that listen for a VM's ports. The caller closes them.
	Take(vm string, ports []Published) ([]Socket, error)
}

// Publisher is a Hypervisor that publishes ports of its machines.
type Publisher interface {
	// Publish makes the ports of m the only ones that are published of its running machine, now
	// and by every shim after this one. held are sockets for some of them that listen already,
	// which the caller closes. On error nothing has changed.
	Publish(ctx context.Context, m Machine, held []Socket) error
}

// Socket listens on the host for a published port. Conn is a *net.TCPListener or *net.UDPConn.
type Socket struct {
	Published
	Conn io.Closer
}

package proxy

import (
	"net"
	"strconv"
	"strings"
)

// domain is what all names end with: browsers know without asking anybody that it is this
// host (RFC 6761, 6.3).
const domain = "localhost"

// ports is the label before a VM's name for its page. A VM whose own name begins as
// "3000-" does has its page there only.
const ports = "ports"

// target is what a name means.
type target struct {
	vm   string // its name; "": the list of all
	port int    // 0: the page of the VM
}

// parse says what the host of a request means. What it means doesn't depend on which VMs
// there are: a label that is a number and a dash before a name is that port.
//
// ours is false for a host that isn't this one: a name of somebody else's that leads here
// makes a browser take its pages and ours for one site.
func parse(host string) (t target, ours, ok bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	switch host {
	case domain, "127.0.0.1", "::1", "[::1]":
		return target{}, true, true
	}
	name, ours := strings.CutSuffix(host, "."+domain)
	if !ours {
		return target{}, false, false
	}
	before, last, two := strings.Cut(name, ".")
	if two {
		port, number := portOf(before)
		return target{last, port}, true, last != "" && !strings.Contains(last, ".") && (number || before == ports)
	}
	if first, rest, dash := strings.Cut(name, "-"); dash && rest != "" {
		if port, number := portOf(first); number {
			return target{rest, port}, true, true
		}
	}
	return target{vm: name}, true, name != ""
}

// portOf reads a port that is written as people do.
func portOf(s string) (port int, ok bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n > 0 && s[0] != '0' && s[0] != '+'
}

// pageOf is the host of a VM's page.
func pageOf(vm string) string {
	if t, _, ok := parse(vm + "." + domain); !ok || t.port != 0 {
		vm = ports + "." + vm
	}
	return vm + "." + domain
}

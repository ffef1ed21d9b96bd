// Package nic configures the guest's network devices by rtnetlink(7): loopback,
// and the one Ethernet device there may be. It refuses to know where addresses
// come from.
package nic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/agent/uevent"
	"banger/guest"
)

// Configure brings up the loopback device and, unless id is nil, the
// machine's one network device, as eth0.
func Configure(id *guest.NetIdentity) error {
	r, err := openRoute()
	if err != nil {
		return fmt.Errorf("rtnetlink: %w", err)
	}
	defer r.close()
	if err := r.linkUp(1); err != nil { // the loopback device is always the first
		return fmt.Errorf("bring lo up: %w", err)
	}
	if id == nil {
		return nil
	}
	address, err := netip.ParsePrefix(id.Address)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(id.MAC)
	if err != nil {
		return err
	}
	index, err := findNIC()
	if err != nil {
		return err
	}
	if err := r.linkUp(index, attribute(unix.IFLA_ADDRESS, mac), attribute(unix.IFLA_IFNAME, []byte("eth0\x00"))); err != nil {
		return fmt.Errorf("bring eth0 up: %w", err)
	}
	if err := r.addAddress(index, address); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if id.Gateway == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(id.Gateway)
	if err != nil {
		return err
	}
	if err := r.addDefault(index, gateway); err != nil {
		return fmt.Errorf("route by %s: %w", gateway, err)
	}
	return nil
}

// Reconfigure gives the one network device, which is in use as old says,
// what id says. A device that is down can be renamed to what it is and given
// another MAC whatever its driver; its routes go with that.
func Reconfigure(old, id *guest.NetIdentity) error {
	if old == nil || id == nil {
		if old != id {
			return errors.New("a machine with a network can't become one without")
		}
		return nil
	}
	r, err := openRoute()
	if err != nil {
		return fmt.Errorf("rtnetlink: %w", err)
	}
	defer r.close()
	index, err := findNIC()
	if err != nil {
		return err
	}
	if err := r.linkDown(index); err != nil {
		return fmt.Errorf("take eth0 down: %w", err)
	}
	if old.Address != id.Address {
		address, err := netip.ParsePrefix(old.Address)
		if err != nil {
			return err
		}
		// Its user may have taken it away.
		if err := r.dropAddress(index, address); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("drop address %s: %w", address, err)
		}
	}
	return Configure(id)
}

// wait bounds the wait for a device to appear after its driver was loaded.
const wait = 5 * time.Second

// findNIC returns the index of the one Ethernet device, waiting for it. The
// kernel makes a device's link before its attributes (device_add in
// drivers/base/core.c), so one without an index is one that isn't there yet.
func findNIC() (int, error) {
	events := uevent.Listen("net")
	defer events.Close()
	for end := time.Now().Add(wait); ; events.Wait(uevent.LookAgain) {
		devices, err := filepath.Glob("/sys/class/net/*/device") // only hardware has one
		if err != nil {
			return 0, err
		}
		if len(devices) > 0 {
			text, err := os.ReadFile(filepath.Join(filepath.Dir(devices[0]), "ifindex"))
			if err == nil {
				return strconv.Atoi(strings.TrimSpace(string(text)))
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return 0, err
			}
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("no network device after %v", wait)
		}
	}
}

var native = binary.NativeEndian

// route speaks rtnetlink(7): only the three requests we need, each acknowledged.
type route struct{ fd int }

func openRoute() (*route, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &route{fd}, nil
}

func (r *route) close() { unix.Close(r.fd) }

func (r *route) linkUp(index int, attributes ...[]byte) error {
	head := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(head[4:], uint32(index))
	native.PutUint32(head[8:], unix.IFF_UP)
	native.PutUint32(head[12:], unix.IFF_UP) // the mask
	return r.do(unix.RTM_NEWLINK, 0, head, attributes...)
}

func (r *route) linkDown(index int) error {
	head := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(head[4:], uint32(index))
	native.PutUint32(head[12:], unix.IFF_UP) // the mask
	return r.do(unix.RTM_NEWLINK, 0, head)
}

func (r *route) dropAddress(index int, p netip.Prefix) error {
	head := []byte{family(p.Addr()), byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	head = native.AppendUint32(head, uint32(index))
	return r.do(unix.RTM_DELADDR, 0, head, attribute(unix.IFA_LOCAL, p.Addr().AsSlice()))
}

func (r *route) addAddress(index int, p netip.Prefix) error {
	head := []byte{family(p.Addr()), byte(p.Bits()), unix.IFA_F_PERMANENT, unix.RT_SCOPE_UNIVERSE}
	head = native.AppendUint32(head, uint32(index))
	a := p.Addr().AsSlice()
	return r.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, head,
		attribute(unix.IFA_LOCAL, a), attribute(unix.IFA_ADDRESS, a))
}

func (r *route) addDefault(index int, gateway netip.Addr) error {
	head := make([]byte, unix.SizeofRtMsg)
	head[0] = family(gateway)
	head[4], head[5], head[6], head[7] = unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	return r.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, head,
		attribute(unix.RTA_GATEWAY, gateway.AsSlice()), attribute(unix.RTA_OIF, native.AppendUint32(nil, uint32(index))))
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// attribute is one struct rtattr with its value, padded.
func attribute(kind uint16, value []byte) []byte {
	b := native.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = native.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, (4-len(b)%4)%4)...)
}

// do sends one request and waits for its acknowledgement.
func (r *route) do(kind, flags uint16, head []byte, attributes ...[]byte) error {
	body := append(head, bytes.Join(attributes, nil)...)
	msg := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = native.AppendUint16(msg, kind)
	msg = native.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	msg = append(msg, make([]byte, 8)...) // sequence and port: one request at a time needs none
	if err := unix.Sendto(r.fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(r.fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || native.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("unexpected answer of %d bytes", n)
	}
	if code := int32(native.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

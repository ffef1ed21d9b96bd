package bridge

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger"
)

// tap makes a VM's TAP a port of the bridge. The TAP stays when the VMM closes it.
func (d *Driver) tap(br netlink.Link, s source) error {
	l, err := netlink.LinkByName(s.tap)
	if missing(err) {
		l, err = makeTap(s.tap, d.alias(s))
	}
	if err != nil {
		return err
	}
	if _, ok := d.mine(l); !ok && !unnamed(l) {
		return banger.Errorf(banger.CodeConflict, "there is a link of this name that banger didn't make").
			WithHint("remove it: ip link delete %s", s.tap)
	}
	if err := netlink.LinkSetAlias(l, d.alias(s)); err != nil {
		return err
	}
	if l.Attrs().MasterIndex != br.Attrs().Index {
		if err := netlink.LinkSetMaster(l, br); err != nil {
			return err
		}
	}
	return d.isolate(l)
}

// unnamed reports whether a link with the name of a TAP of ours has no alias. An earlier
// build left such a TAP if it was killed right after it had made it.
func unnamed(l netlink.Link) bool { return l.Type() == "tuntap" && l.Attrs().Alias == "" }

// made is called when a TAP is there and has no alias yet: a test dies here.
var made = func() {}

// makeTap makes a TAP with an alias. Until the alias is set, the TAP isn't persistent and
// goes when we die (the kernel's networking/tuntap.rst): so no TAP without an alias is
// ever left.
func makeTap(name, alias string) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tap := &netlink.Tuntap{
		LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_NO_PI,
		Queues: 1, NonPersist: true,
	}
	if err := netlink.LinkAdd(tap); err != nil {
		return nil, err
	}
	defer tap.Fds[0].Close()
	made()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetAlias(l, alias)
	}
	if err == nil {
		err = unix.IoctlSetInt(int(tap.Fds[0].Fd()), unix.TUNSETPERSIST, 1)
	}
	if err != nil {
		return nil, err
	}
	return netlink.LinkByName(name)
}

package bridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// lookEvery is how often the tables are checked without a message from the kernel:
	// default routes change, and messages may get lost.
	lookEvery = 10 * time.Second
	// restEvery is the least time between two changes, in case another program keeps
	// undoing ours.
	restEvery = 50 * time.Millisecond
)

// Watch keeps the tables as they should be until ctx ends: a restart of the host's own
// firewall removes ours, too. While they can't be put back, our guests are cut off. Watch
// calls tell with the error when that begins, and with nil when it ends. Without a bridge
// it waits for one.
func (d *Driver) Watch(ctx context.Context, tell func(error)) {
	changed := make(chan struct{}, 1)
	go listen(ctx, changed)
	failing := false
	for {
		err := d.Assert(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil || failing {
			tell(err)
		}
		failing = err != nil
		rest := time.NewTimer(restEvery)
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(lookEvery):
		}
	}
}

// Assert makes bridge, ports and tables what they should be, if there is a bridge.
// On error our guests are cut off.
func (d *Driver) Assert(ctx context.Context) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := netlink.LinkByName(d.cfg.Name)
	if missing(err) || err == nil && l.Attrs().Alias != bridgeAlias {
		return nil
	}
	br, err := d.bridge()
	if err != nil {
		return fmt.Errorf("bridge %s: %w", d.cfg.Name, err)
	}
	ports, _, err := portsOf(br)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", d.cfg.Name, err)
	}
	if err := d.rules(br); err != nil {
		return errors.Join(fmt.Errorf("nftables table %s: %w", d.cfg.Name, err), d.cut(ports))
	}
	var errs []error
	for _, p := range ports {
		if p.owner == d.owner() {
			errs = append(errs, d.isolate(p.link), netlink.LinkSetUp(p.link))
		}
	}
	return errors.Join(errs...)
}

// cut takes our guests' links down.
func (d *Driver) cut(ports []port) error {
	var errs []error
	for _, p := range ports {
		if p.owner == d.owner() {
			errs = append(errs, netlink.LinkSetDown(p.link))
		}
	}
	return errors.Join(errs...)
}

// listen sends a token whenever somebody changes nftables' rules.
func listen(ctx context.Context, changed chan<- struct{}) {
	const nftables = 7 // NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER, nftables)
	if err != nil {
		return // the tables are still checked from time to time
	}
	defer s.Close()
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.GetFd()), Events: unix.POLLIN}}, 500)
		if err != nil && err != unix.EINTR {
			return
		}
		if n <= 0 {
			continue
		}
		// The message's content doesn't matter, nor whether messages were lost.
		_, _, err = unix.Recvfrom(s.GetFd(), make([]byte, 1), unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if err != nil && err != unix.ENOBUFS && err != unix.EINTR && err != unix.EAGAIN {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

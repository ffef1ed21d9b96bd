// Package uevent waits for the kernel's messages about devices: that one is there or has
// changed. Looking again and again doesn't work well in a guest with one emulated CPU: it
// would take CPU time from the driver that is waited for.
//
// It knows nothing of which device is wanted: the caller looks for it after each event.
package uevent

import (
	"bytes"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Events are the events of one subsystem since Listen.
type Events struct {
	f         *os.File // nil if the kernel gives no events
	subsystem []byte
	buf       []byte
}

// maxEvent is the size of the kernel's buffer for an event's text
// (UEVENT_BUFFER_SIZE in include/linux/kobject.h), with room for its head.
const maxEvent = 4096

// group is the netlink group of the kernel's own events
// (uevent_net_broadcast_untagged in lib/kobject_uevent.c).
const group = 1

// Listen begins to keep the events of a subsystem, as SUBSYSTEM= of an event calls
// it: "block", "net". Look for the device after it, or its event may be missed.
func Listen(subsystem string) *Events {
	e := &Events{subsystem: []byte("\x00SUBSYSTEM=" + subsystem + "\x00"), buf: make([]byte, maxEvent)}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return e
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group}); err != nil {
		_ = unix.Close(fd) // nothing was written
		return e
	}
	e.f = os.NewFile(uintptr(fd), "uevents")
	return e
}

// LookAgain is how long to Wait before looking anyway: not every change has an event.
const LookAgain = 50 * time.Millisecond

// Wait returns after the next event, or after atMost.
func (e *Events) Wait(atMost time.Duration) {
	end := time.Now().Add(atMost)
	err := e.f.SetReadDeadline(end) // an error where there is no file
	for err == nil {
		var n int
		if n, err = e.f.Read(e.buf); bytes.Contains(e.buf[:n], e.subsystem) {
			return
		}
	}
	if !os.IsTimeout(err) { // ENOBUFS: events were lost, perhaps ours
		time.Sleep(min(time.Until(end), blind))
	}
}

// blind is how long to wait when events can't be heard.
const blind = 5 * time.Millisecond

// Close ends the listening.
func (e *Events) Close() {
	_ = e.f.Close() // nothing was written
}

// Package vhost is the host's end of a guest's virtio socket (vsock), for a VMM that has no
// such device itself and speaks the vhost-user protocol (QEMU's docs/interop/vhost-user.rst):
// User-mode Linux. The VMM connects to it, and hands over the guest's memory and the
// device's queues. Programs of the host connect to ports of the guest as they do with
// Firecracker: a line "CONNECT port", answered by "OK port", and then the bytes
// (Firecracker's docs/vsock.md). Connections that a guest begins are refused.
//
// The other end is a guest's kernel, and it isn't trusted: it chooses every message,
// address, length, index and count here, and may change memory while we read it. So what
// decides anything is copied before it is checked, all that is held has a bound, and
// whoever breaks the rules loses the device. A VMM that loses it can't get it back.
//
// It knows nothing of VMs, or of what is sent.
package vhost

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
)

// Bounds.
const (
	maxStreams = 64        // connections at once
	maxReplies = 256       // packets that wait for room in the guest's queue; then the guest isn't heard
	window     = 256 << 10 // bytes of a stream that wait for the host to read them
	creditStep = 64 << 10  // bytes read after which the guest is told
	maxRead    = 64 << 10  // bytes that are read from the host at a time
)

// guestCID is the guest's address, the first that isn't reserved (vsock(7)): each device has
// a guest of its own.
const guestCID, hostCID = 3, 2

// Device is one guest's. Its methods may be called concurrently.
type Device struct {
	mu      sync.Mutex
	changed sync.Cond // anything below, or a stream, or the guest's queues
	due     sync.Cond // replies are to be sent, and may have room
	rx, tx  *queue    // to the guest and from it; nil: not running
	replies []header  // packets without data that wait for room in rx
	streams map[uint32]*stream
	port    uint32    // the host's last
	down    error     // why it has ended
	vmm     io.Closer // its connection; nil: none
}

// New returns a device that no VMM has connected to.
func New() *Device {
	d := &Device{streams: map[uint32]*stream{}, port: 1 << 30}
	d.changed.L, d.due.L = &d.mu, &d.mu
	return d
}

// ErrEnded is the error of Run when the VMM has hung up, as it does when it ends.
var ErrEnded = errors.New("the VMM has hung up")

var errFault = errors.New("the guest's memory is gone")

// Run serves the first VMM that connects to vmm, and all programs of the host that connect to
// host. It returns when that VMM has hung up or broken the protocol; both listeners and all
// connections are closed then.
func (d *Device) Run(vmm, host *net.UnixListener) error {
	defer vmm.Close()
	defer host.Close()
	u, err := vmm.AcceptUnix()
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.vmm = u
	d.mu.Unlock()
	var works sync.WaitGroup
	works.Go(func() { d.accept(host) })
	works.Go(func() { d.worker(d.flushes) })
	d.end(d.serve(u))
	_ = host.Close() // as Run does once more
	works.Wait()
	return d.down
}

// end closes all streams, for why.
func (d *Device) end(why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down == nil {
		d.down = why
	}
	for _, s := range d.streams {
		d.drop(s)
	}
	if d.vmm != nil {
		_ = d.vmm.Close() // wakes who reads it
	}
	d.changed.Broadcast()
	d.due.Signal()
}

// wake tells all who wait that the guest has room.
func (d *Device) wake() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed.Broadcast()
	if len(d.replies) > 0 {
		d.due.Signal()
	}
	return nil
}

// guarded runs f, which touches the guest's memory. That is a file of the VMM's, so it may
// have holes where its filesystem is full, or be cut off: then f ends with errFault.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // package runtime's error for a fault
			err = fmt.Errorf("%w: a fault at %#x", errFault, r.Addr())
		default:
			panic(r)
		}
	}()
	return f()
}

// worker runs f as guarded until it ends, which ends the device, too.
func (d *Device) worker(f func() error) {
	if err := guarded(f); err != nil {
		d.end(err)
	}
}

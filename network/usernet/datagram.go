package usernet

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// carryUDP carries one flow: the datagrams of one source port to one destination.
func (n *Network) carryUDP(r *udp.ForwarderRequest) {
	id := r.ID()
	dns := n.isDNS(id)
	if !dns && n.closed(remote(id)) || !n.udp.take() {
		return
	}
	f := &datagrams{n: n, wq: new(waiter.Queue), idle: udpIdle, over: make(chan struct{})}
	if dns {
		f.idle = dnsIdle
	}
	ep, err := r.CreateEndpoint(f.wq)
	if err != nil {
		n.udp.give()
		return
	}
	f.ep = ep
	n.crowd.join(f)
	go func() {
		defer n.udp.give()
		defer ep.Close()
		defer n.crowd.leave(f)
		far, err := n.dial("udp4", id)
		if err != nil {
			return
		}
		defer far.Close()
		if len(n.udp) > bigFlows {
			narrow(far, smallBuffer)
		}
		f.far = far.(*net.UDPConn)
		f.relay()
	}()
}

// datagrams is one UDP flow.
type datagrams struct {
	n    *Network
	ep   tcpip.Endpoint
	wq   *waiter.Queue
	far  *net.UDPConn
	idle time.Duration
	used atomic.Int64  // when a datagram was last carried, in Unix milliseconds
	over chan struct{} // closed when the flow must end to make room for another
}

// crowd is all UDP flows. They end only when idle, and a guest may ask its resolver from a
// new port each time. So when there are many, the longest idle one ends.
type crowd struct {
	mu    sync.Mutex
	flows map[*datagrams]bool
}

// From crowded flows on, one that was idle for at least crowdIdle ends to make room.
const (
	crowded   = maxUDP * 3 / 4
	crowdIdle = time.Second
)

func (c *crowd) join(f *datagrams) {
	f.carried()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flows == nil {
		c.flows = map[*datagrams]bool{}
	}
	if len(c.flows) >= crowded {
		oldest := f
		for o := range c.flows {
			if o.used.Load() < oldest.used.Load() {
				oldest = o
			}
		}
		if f.used.Load()-oldest.used.Load() >= crowdIdle.Milliseconds() {
			delete(c.flows, oldest)
			close(oldest.over)
		}
	}
	c.flows[f] = true
}

func (c *crowd) leave(f *datagrams) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flows, f)
}

func (f *datagrams) carried() { f.used.Store(time.Now().UnixMilli()) }

// relay copies datagrams both ways until neither side has sent one for some time. An idle
// flow has no buffer: a datagram may have 64 KiB, and there may be many flows.
func (f *datagrams) relay() {
	ctx, end := context.WithCancel(f.n.ctx)
	defer end()
	idle := time.AfterFunc(f.idle, end)
	defer idle.Stop()
	stop := context.AfterFunc(ctx, func() { _ = f.far.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { f.out(ctx, idle); end() })
	both.Go(func() { f.in(idle); end() })
	select {
	case <-f.over:
		end()
	case <-ctx.Done():
	}
	both.Wait()
}

// out copies the guest's datagrams to the far side.
func (f *datagrams) out(ctx context.Context, idle *time.Timer) {
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents)
	f.wq.EventRegister(&entry)
	defer f.wq.EventUnregister(&entry)
	for {
		buf := f.n.packets.get()
		w := bytes.NewBuffer((*buf)[:0])
		_, err := f.ep.Read(w, tcpip.ReadOptions{})
		if err == nil {
			f.send(w.Bytes())
			f.carried()
			idle.Reset(f.idle)
		}
		f.n.packets.put(buf)
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-readable:
			case <-ctx.Done():
				return
			}
		default:
			return
		}
	}
}

// send sends a datagram. It ignores errors, as any network may lose datagrams.
func (f *datagrams) send(b []byte) {
	if raw, err := f.far.SyscallConn(); err == nil {
		_ = raw.Write(func(fd uintptr) bool { _, _ = unix.Write(int(fd), b); return true })
	}
}

// in copies datagrams of the far side to the guest.
func (f *datagrams) in(idle *time.Timer) {
	raw, err := f.far.SyscallConn()
	if err != nil {
		return
	}
	for {
		var got error
		err := raw.Read(func(fd uintptr) bool {
			buf := f.n.packets.get()
			defer f.n.packets.put(buf)
			var size int
			size, got = unix.Read(int(fd), *buf)
			if got == nil {
				_, _ = f.ep.Write(bytes.NewReader((*buf)[:size]), tcpip.WriteOptions{}) // likewise
			}
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return
		case got == nil:
			f.carried()
			idle.Reset(f.idle)
		case !errors.Is(got, unix.ECONNREFUSED) && !errors.Is(got, unix.EINTR) && !errors.Is(got, unix.EHOSTUNREACH) && !errors.Is(got, unix.ENETUNREACH):
			return
		}
		// A port that is unreachable now may be reachable for the next datagram.
	}
}

// packets are buffers for one datagram each, maxPackets of them.
type packets struct {
	free chan *[]byte
}

func newPackets() packets {
	p := packets{make(chan *[]byte, maxPackets)}
	for range maxPackets {
		p.free <- nil // made when first used
	}
	return p
}

func (p packets) get() *[]byte {
	b := <-p.free
	if b == nil {
		fresh := make([]byte, 65536)
		b = &fresh
	}
	return b
}

func (p packets) put(b *[]byte) { p.free <- b }

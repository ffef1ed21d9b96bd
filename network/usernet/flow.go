package usernet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// carryTCP connects to the guest's destination and only then accepts the guest's connection,
// so that the guest sees a refused connection as refused. The flow counts until the stack has
// nothing left of it.
func (n *Network) carryTCP(r *tcp.ForwarderRequest) {
	if !n.tcp.take() {
		r.Complete(true)
		return
	}
	defer n.tcp.give()
	far, err := n.dial("tcp4", r.ID())
	if err != nil {
		r.Complete(true)
		return
	}
	if open := len(n.tcp); open > bigFlows {
		narrow(far, smallBuffer)
	} else if open > freeFlows {
		narrow(far, bigBuffer)
	}
	near, terr := n.accept(r)
	if terr != nil {
		r.Complete(true)
		_ = far.Close()
		return
	}
	r.Complete(false)
	n.splice(near, far.(*net.TCPConn))
	n.bury(near)
}

// narrow bounds what the kernel holds of a flow's far end. It would give all of them
// windows for what is far and fast.
func narrow(far net.Conn, size int) {
	if c, ok := far.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok {
		_, _ = c.SetReadBuffer(size), c.SetWriteBuffer(size) // an open socket always can
	}
}

// near is the guest's side of a TCP flow.
type near struct {
	*gonet.TCPConn
	ep     tcpip.Endpoint
	wq     *waiter.Queue
	size   int // of the buffer for what the guest hasn't acknowledged, in bytes
	now    int // the buffer's present bound
	pieces [maxPieces - 1]int
	oldest int // index of the oldest of the latest pieces
	sum    int // of all pieces
	closed sync.Once
}

func (n *Network) accept(r *tcp.ForwarderRequest) (*near, tcpip.Error) {
	wq := new(waiter.Queue)
	ep, err := r.CreateEndpoint(wq)
	if err != nil {
		return nil, err
	}
	if len(n.tcp) > bigFlows {
		ep.SocketOptions().SetReceiveBufferSize(smallBuffer, true)
		return newNear(ep, wq, smallBuffer), nil
	}
	return newNear(ep, wq, bigBuffer), nil
}

// newNear returns the guest's side of a flow that may have at most size bytes unacknowledged.
func newNear(ep tcpip.Endpoint, wq *waiter.Queue, size int) *near {
	c := &near{TCPConn: gonet.NewTCPConn(wq, ep), ep: ep, wq: wq, size: size, now: size}
	ep.SocketOptions().SetSendBufferSize(int64(size), true)
	for i := range c.pieces { // so that the first writes have room
		c.pieces[i] = size
		c.sum += size
	}
	return c
}

// Write waits until the stack has taken all of b. The stack keeps a segment for each write, of
// any size, until the guest has acknowledged it. So that there are at most maxPieces segments,
// the bytes queued are kept below those of the latest maxPieces-1 writes.
func (c *near) Write(b []byte) (int, error) {
	var entry waiter.Entry
	var writable <-chan struct{}
	r := bytes.NewReader(b)
	for r.Len() > 0 {
		if room := min(c.sum, c.size); room != c.now {
			c.now = room
			c.ep.SocketOptions().SetSendBufferSize(int64(room), true)
		}
		n, err := c.ep.Write(r, tcpip.WriteOptions{})
		switch err.(type) {
		case nil:
			c.sum += int(n) - c.pieces[c.oldest]
			c.pieces[c.oldest] = int(n)
			c.oldest = (c.oldest + 1) % len(c.pieces)
		case *tcpip.ErrWouldBlock:
			if writable == nil { // and look again: it may have become so meanwhile
				entry, writable = waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
				c.wq.EventRegister(&entry)
				defer c.wq.EventUnregister(&entry)
				continue
			}
			<-writable
		default:
			return len(b) - r.Len(), errors.New(err.String())
		}
	}
	return len(b), nil
}

// abort ends the connection by a reset, as the guest may not have all bytes.
func (c *near) abort() { c.closed.Do(c.ep.Abort) }

// dead reports whether the stack has nothing left of the connection.
func (c *near) dead() bool {
	s := tcp.EndpointState(c.ep.State())
	return s == tcp.StateClose || s == tcp.StateError
}

// bury closes a connection that both sides have ended, and returns when the stack has nothing
// left of it. A guest that doesn't take the rest may be paused: bury waits for it as long as
// there is room for other flows.
func (n *Network) bury(c *near) {
	end := time.Now().Add(endPatience)
	c.closed.Do(c.ep.Close)
	for wait := time.Millisecond; !c.dead(); wait = min(2*wait, 100*time.Millisecond) {
		select {
		case <-time.After(wait):
		case <-n.ctx.Done():
			c.ep.Abort()
			return
		}
		if time.Now().After(end) && len(n.tcp) > maxTCP/2 {
			c.ep.Abort()
		}
	}
}

// splice copies both ways and passes on each direction's end, until both have ended or the
// network closes. When one direction breaks, it resets the connection: a normal end would say
// that no bytes were lost.
func (n *Network) splice(c *near, far *net.TCPConn) {
	broken := sync.OnceFunc(func() {
		_ = far.SetLinger(0)
		_ = far.Close()
		c.abort()
	})
	stop := context.AfterFunc(n.ctx, broken)
	defer stop()
	defer far.Close()
	pour := func(dst io.Writer, src io.Reader, end func() error) {
		// Hide ReadFrom and WriteTo, which would use buffers of another size.
		_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, copySize))
		if err == nil {
			err = end()
		}
		if err != nil {
			broken()
		}
	}
	var both sync.WaitGroup
	both.Go(func() { pour(far, c, far.CloseWrite) })
	both.Go(func() { pour(c, far, c.CloseWrite) })
	both.Wait()
}

// dial opens the host's side of a flow. DNS goes to the host's own resolvers.
func (n *Network) dial(network string, id stack.TransportEndpointID) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(n.ctx, dialPatience)
	defer cancel()
	var d net.Dialer
	if n.isDNS(id) {
		err := errors.New("the host has no name server")
		for _, server := range n.cfg.Resolvers() {
			var c net.Conn
			if c, err = d.DialContext(ctx, network[:3], server); err == nil {
				return c, nil
			}
		}
		return nil, err
	}
	to := remote(id)
	if n.closed(to) {
		return nil, errClosed
	}
	return d.DialContext(ctx, network, net.JoinHostPort(to.String(), strconv.Itoa(int(id.LocalPort))))
}

// isDNS reports a flow to our resolver address. The stack calls the guest's
// destination "local".
func (n *Network) isDNS(id stack.TransportEndpointID) bool {
	return id.LocalPort == 53 && remote(id) == n.cfg.DNS
}

func remote(id stack.TransportEndpointID) netip.Addr {
	return netip.AddrFrom4(id.LocalAddress.As4())
}

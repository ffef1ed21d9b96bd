package usernet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	maxDialing   = 256              // TCP connections being opened at once
	maxFlows     = 2048             // open flows, TCP and UDP together; each is one file descriptor here
	dialPatience = 30 * time.Second // for the far side to answer a connection attempt
	udpIdle      = 2 * time.Minute  // a UDP flow without a packet ends (RFC 4787, REQ-5)
	sendPatience = 100 * time.Millisecond
)

// carryTCP connects to where the guest wants to go and only then accepts the
// guest's connection, so that the guest sees a refusal as a refusal.
func (n *Network) carryTCP(r *tcp.ForwarderRequest) {
	release, ok := n.flow()
	if !ok {
		r.Complete(true)
		return
	}
	defer release()
	far, err := n.dial("tcp4", r.ID())
	if err != nil {
		r.Complete(true)
		return
	}
	defer far.Close()
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	if terr != nil {
		r.Complete(true)
		return
	}
	r.Complete(false)
	near := gonet.NewTCPConn(&wq, ep)
	defer near.Close()
	n.splice(near, far.(*net.TCPConn))
}

// splice copies both ways and passes each half's end on, until both have ended
// or the network closes.
func (n *Network) splice(near *gonet.TCPConn, far *net.TCPConn) {
	stop := context.AfterFunc(n.ctx, func() {
		_ = near.Close()
		_ = far.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pour(far, near) })
	both.Go(func() { pour(near, far) })
	both.Wait()
}

type half interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// pour copies until src ends; an error ends both directions, since what comes
// after lost bytes is worthless.
func pour(dst, src half) {
	if _, err := io.Copy(dst, src); err != nil {
		_ = dst.Close()
		_ = src.Close()
		return
	}
	_ = dst.CloseWrite()
}

// carryUDP carries one flow: the datagrams of one source port to one destination.
func (n *Network) carryUDP(r *udp.ForwarderRequest) {
	release, ok := n.flow()
	if !ok {
		return
	}
	id := r.ID()
	if !n.isDNS(id) && n.closed(remote(id)) {
		release()
		return
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	if terr != nil {
		release()
		return
	}
	near := gonet.NewUDPConn(&wq, ep)
	go func() {
		defer release()
		defer near.Close()
		far, err := n.dial("udp4", id)
		if err != nil {
			return
		}
		defer far.Close()
		n.relay(near, far)
	}()
}

// relay copies datagrams both ways until neither side sent one for udpIdle.
func (n *Network) relay(near, far net.Conn) {
	stop := context.AfterFunc(n.ctx, func() {
		_ = near.Close()
		_ = far.Close()
	})
	defer stop()
	var both sync.WaitGroup
	one := func(dst, src net.Conn) {
		buf := make([]byte, 65536)
		for {
			until := time.Now().Add(udpIdle)
			if src.SetReadDeadline(until) != nil {
				break
			}
			size, err := src.Read(buf)
			if err != nil {
				// A port that is unreachable now may not be for the next datagram.
				if ne := net.Error(nil); errors.As(err, &ne) && !ne.Timeout() && dst == near && !errors.Is(err, net.ErrClosed) {
					continue
				}
				break
			}
			if _, err := dst.Write(buf[:size]); errors.Is(err, net.ErrClosed) {
				break
			}
		}
		_ = dst.Close()
		_ = src.Close()
	}
	both.Go(func() { one(far, near) })
	both.Go(func() { one(near, far) })
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

// flow takes a token; ok is false when the guest holds too many.
func (n *Network) flow() (release func(), ok bool) {
	select {
	case n.flows <- struct{}{}:
		return func() { <-n.flows }, true
	default:
		return nil, false
	}
}

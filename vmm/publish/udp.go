package publish

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"banger"
	"banger/guest/flow"
)

// client is a sender of datagrams, for which the guest has a socket of its own.
type client struct {
	to   chan []byte // datagrams for the guest
	used atomic.Int64
}

// waiting bounds how many datagrams of a client wait for the guest.
const waiting = 64

// receive takes the datagrams that come to a socket. One that there is no room for is dropped,
// as a network drops it.
func (s *Server) receive(at *port, p banger.Published, sock *net.UDPConn) {
	buf := make([]byte, flow.MaxDatagram)
	for {
		n, from, err := sock.ReadFromUDPAddrPort(buf)
		if err != nil {
			select {
			case <-at.ctx.Done():
				return
			case <-time.After(firstPause):
				continue
			}
		}
		s.mu.Lock()
		if c := s.client(at, p, sock, from); c != nil && s.queued.take(n) {
			select {
			case c.to <- append([]byte(nil), buf[:n]...):
			default:
				s.queued.give(n)
			}
		}
		s.mu.Unlock()
	}
}

// client returns a sender's, nil if there are too many. s.mu is held.
func (s *Server) client(at *port, p banger.Published, sock *net.UDPConn, from netip.AddrPort) *client {
	key := sock.LocalAddr().String() + from.String()
	c := at.clients[key]
	if c == nil {
		if len(at.clients) >= maxClients || at.ctx.Err() != nil {
			return nil
		}
		select {
		case s.places <- struct{}{}:
		default:
			return nil
		}
		c = &client{to: make(chan []byte, waiting)}
		at.clients[key] = c
		go func() {
			s.exchange(at, p, c, sock, from)
			s.mu.Lock()
			delete(at.clients, key) // from here on nobody adds to c.to
			s.mu.Unlock()
			for len(c.to) > 0 {
				s.queued.give(len(<-c.to))
			}
			<-s.places
		}()
	}
	c.used.Store(time.Now().UnixNano())
	return c
}

// exchange carries a client's datagrams both ways until neither side has sent one for a while.
func (s *Server) exchange(at *port, p banger.Published, c *client, sock *net.UDPConn, from netip.AddrPort) {
	to, err := s.dial(p)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }() // datagrams have no end to be told
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, flow.MaxDatagram)
		for {
			n, err := to.Read(buf)
			if err != nil {
				return
			}
			c.used.Store(time.Now().UnixNano())
			_, _ = sock.WriteToUDPAddrPort(buf[:n], from) // lost, as a network loses it
		}
	}()
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	for {
		select {
		case b := <-c.to:
			s.queued.give(len(b))
			if _, err := to.Write(b); err != nil {
				return
			}
		case <-quiet.C:
			left := silence - time.Since(time.Unix(0, c.used.Load()))
			if left <= 0 {
				return
			}
			quiet.Reset(left)
		case <-ended:
			return
		case <-at.ctx.Done():
			return
		}
	}
}

// budget bounds bytes that wait.
type budget struct{ taken atomic.Int64 }

func (b *budget) take(n int) bool {
	if b.taken.Add(int64(n)) <= maxQueued {
		return true
	}
	b.taken.Add(-int64(n))
	return false
}

func (b *budget) give(n int) { b.taken.Add(-int64(n)) }

// Package publish leads published ports of a host into a guest: it takes the connections and
// datagrams that come to them, and has the guest's agent carry each on.
//
// It knows nothing of VMMs, nor of what keeps the guest's channel.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/guest"
	"banger/guest/flow"
	"banger/host/published"
)

// Bounds, of all ports of a VM together. docs/bounds.md adds up what they can hold.
const (
	maxFlows   = 1000             // connections and UDP's clients at a time; the guest's other streams have places left
	maxClients = 256              // of these for one port of UDP
	maxQueued  = 4 << 20          // bytes of datagrams that wait for a guest
	maxDials   = 32               // connections that a guest is asked for at a time: a burst isn't to be its failure
	dialWait   = 30 * time.Second // for a guest to take a connection
	silence    = 90 * time.Second // after which a UDP client is forgotten
	again      = time.Second      // until a port that somebody has taken is tried again
	youth      = time.Minute      // in which a program of a new guest may still be about to listen
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// Server publishes ports of one guest.
type Server struct {
	guest  guest.Dialer
	born   time.Time // when the guest was started; zero: before
	places chan struct{}
	dials  chan struct{} // a place for each that is under way
	queued budget

	mu     sync.Mutex
	ports  map[banger.Published]*port
	closed bool
}

// port is one that is published.
type port struct {
	sockets []banger.Socket
	clients map[string]*client // of UDP, by address; Server.mu guards it
	ctx     context.Context
	cancel  func()
}

// New returns a Server that publishes nothing yet. born is when the guest was started, or zero
// if it isn't new.
func New(to guest.Dialer, born time.Time) *Server {
	return &Server{guest: to, born: born, places: make(chan struct{}, maxFlows), dials: make(chan struct{}, maxDials), ports: map[banger.Published]*port{}}
}

// Set publishes these ports and no others. Sockets that are given are used for theirs. On error
// nothing has changed. Connections of a port that goes go on.
func (s *Server) Set(ports []banger.Published, given []banger.Socket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		published.Close(given)
		return errors.New("the VM has ended")
	}
	added := map[banger.Published][]banger.Socket{}
	for _, g := range given {
		if s.ports[g.Published] != nil || !slices.Contains(ports, g.Published) {
			published.Close([]banger.Socket{g})
		} else {
			added[g.Published] = append(added[g.Published], g)
		}
	}
	for _, p := range ports {
		if s.ports[p] != nil || added[p] != nil {
			continue
		}
		sockets, err := published.Listen(p)
		if err != nil {
			for _, sockets := range added {
				published.Close(sockets)
			}
			return err
		}
		added[p] = sockets
	}
	for p := range s.ports {
		if !slices.Contains(ports, p) {
			s.end(p)
		}
	}
	for p, sockets := range added {
		s.begin(p, sockets)
	}
	return nil
}

// Keep publishes the ports of a guest whose last server died. One that somebody has taken since
// is tried again and again, until it is free or isn't wanted any more.
func (s *Server) Keep(ports []banger.Published) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ports {
		sockets, err := published.Listen(p)
		at := s.begin(p, sockets)
		if err == nil {
			continue
		}
		fmt.Fprintln(os.Stderr, "publish", p, "later:", err)
		go func() {
			for err != nil {
				select {
				case <-at.ctx.Done():
					return
				case <-time.After(again):
				}
				sockets, err = published.Listen(p)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if at.ctx.Err() != nil {
				published.Close(sockets)
				return
			}
			s.end(p)
			s.begin(p, sockets)
		}()
	}
}

// begin serves a port's sockets. s.mu is held.
func (s *Server) begin(p banger.Published, sockets []banger.Socket) *port {
	at := &port{sockets: sockets, clients: map[string]*client{}}
	at.ctx, at.cancel = context.WithCancel(context.Background())
	s.ports[p] = at
	for _, sock := range sockets {
		switch c := sock.Conn.(type) {
		case *net.TCPListener:
			go s.accept(at, p, c)
		case *net.UDPConn:
			go s.receive(at, p, c)
		}
	}
	return at
}

// end stops listening for a port. s.mu is held.
func (s *Server) end(p banger.Published) {
	at := s.ports[p]
	delete(s.ports, p)
	at.cancel()
	published.Close(at.sockets)
}

// Close ends all ports, for good.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for p := range s.ports {
		s.end(p)
	}
}

// accept takes connections. When all places are taken, they wait in the kernel.
func (s *Server) accept(at *port, p banger.Published, l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			select {
			case <-at.ctx.Done():
				return
			case <-time.After(lastPause): // out of descriptors
				continue
			}
		}
		select {
		case s.places <- struct{}{}:
		case <-at.ctx.Done():
			refuse(conn)
			return
		}
		_ = conn.SetLinger(0) // if this process is killed, the client sees no end but a break
		go func() {
			defer func() { <-s.places }()
			to, err := s.dial(p)
			if err != nil {
				refuse(conn)
				return
			}
			flow.Join(&caller{TCPConn: conn}, to)
		}()
	}
}

// refuse lets a client know that nobody is there.
func refuse(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // then it is reset
	_ = conn.Close()
}

// dial has the guest connect to a port. In a young guest what is to listen may still start: a
// dial that is refused there is made again.
func (s *Server) dial(p banger.Published) (*flow.Conn, error) {
	s.dials <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), dialWait)
	defer cancel()
	req := flow.DialRequest{Network: p.Protocol, Address: net.JoinHostPort("localhost", strconv.Itoa(p.Guest))}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		conn, err := flow.Dial(ctx, s.guest, req)
		<-s.dials
		if guest.CodeOf(err) != guest.CodeUnavailable || time.Since(s.born) > youth {
			return conn, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
		s.dials <- struct{}{}
	}
}

// caller is a client's connection. One that has ended its direction and then leaves altogether
// says no more about it: it is watched, so that a guest that sends nothing doesn't keep it.
type caller struct {
	*net.TCPConn
	watch sync.Once
	broke atomic.Bool
}

// SetLinger is called with 0 before a connection is closed that broke.
func (c *caller) SetLinger(sec int) error {
	c.broke.Store(sec == 0)
	return c.TCPConn.SetLinger(sec)
}

// Close sends what is still to be sent, unless the connection broke.
func (c *caller) Close() error {
	if !c.broke.Load() {
		_ = c.TCPConn.SetLinger(-1) // fails only when it is closed
	}
	return c.TCPConn.Close()
}

// Read watches the connection once its client has ended its direction.
func (c *caller) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if err == io.EOF {
		c.watch.Do(func() { go c.watched() })
	}
	return n, err
}

// WriteTo reads by Read, and not as the connection itself would.
func (c *caller) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, struct{ io.Reader }{c}) }

// watched closes a connection that has failed. The kernel asks its client now and then whether it is
// still there. That both directions have ended (POLLHUP) is no failure: bytes may still be on their way.
func (c *caller) watched() {
	raw, err := c.SyscallConn()
	if err != nil {
		return // closed already
	}
	_ = raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd)}} // an error is reported without being asked for (poll(2))
		_, err := unix.Poll(p, 0)
		return err == nil && p[0].Revents&unix.POLLERR != 0
	})
	_ = c.Close() // it may be closed already
}

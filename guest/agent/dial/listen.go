package dial

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/guest/agent/account"
	"banger/guest/flow"
)

const (
	// maxWaiting bounds the connections of a listener that nobody has taken yet.
	maxWaiting = 128
	// waitTime is how long one may wait to be taken.
	waitTime = 30 * time.Second
)

// Desk takes connections for listeners, and keeps each until it is asked for. The zero
// value is ready.
type Desk struct {
	Dir string // below it are the sockets of "agent"; empty: DefaultDir

	mu      sync.Mutex // guards what follows
	waiting map[string]caller
	hubs    map[uint32]*hub // by user
}

// caller is a connection that waits.
type caller struct {
	conn  net.Conn
	taken chan struct{} // closed when it is
}

// Listening is what takes connections for one listener.
type Listening struct {
	desk    *Desk
	address string
	news    chan flow.Arrival
	slots   chan struct{} // one for each connection that waits
	done    chan struct{}
	undo    []func()
	close   func()
}

// Address is where it listens, with the port that was chosen.
func (l *Listening) Address() string { return l.address }

// Arrivals is what comes; it is never closed.
func (l *Listening) Arrivals() <-chan flow.Arrival { return l.news }

// Close ends it, and the connections that wait.
func (l *Listening) Close() { l.close() }

// Listen opens the sockets of a request.
func (d *Desk) Listen(req flow.ListenRequest) (*Listening, error) {
	who, err := account.Lookup("", req.User)
	if err != nil {
		return nil, guest.Errorf(guest.CodeInvalid, "%v", err)
	}
	l := &Listening{
		desk: d, address: req.Address, news: make(chan flow.Arrival), slots: make(chan struct{}, maxWaiting), done: make(chan struct{}),
	}
	l.close = sync.OnceFunc(func() {
		close(l.done)
		for _, undo := range slices.Backward(l.undo) {
			undo()
		}
	})
	switch req.Network {
	case "tcp":
		err = l.tcp(who, req.Address)
	case "unix":
		err = l.unix(who, req.Address)
	case "agent":
		err = d.join(who, l)
	default:
		err = guest.Errorf(guest.CodeInvalid, "no network is called %q", req.Network)
	}
	if err == nil {
		return l, nil
	}
	l.close()
	if _, ok := errors.AsType[*guest.Error](err); ok {
		return nil, err
	}
	return nil, said(err)
}

// tcp opens one socket, or two of the same port for "localhost".
func (l *Listening) tcp(who account.Account, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return guest.Errorf(guest.CodeInvalid, "%v", err)
	}
	hosts := []string{host}
	if host == "localhost" {
		hosts = []string{"127.0.0.1", "::1"}
	}
	for i, h := range hosts {
		var s net.Listener
		err := as(who, func() (err error) {
			s, err = net.Listen("tcp", net.JoinHostPort(h, port))
			return err
		})
		if err != nil && i > 0 {
			break // a guest without IPv6, or another's port there
		}
		if err != nil {
			return err
		}
		l.undo = append(l.undo, func() { _ = s.Close() })
		go accept(s, l.announce)
		_, port, _ = net.SplitHostPort(s.Addr().String())
	}
	l.address = net.JoinHostPort(host, port)
	return nil
}

// unix opens a socket at a path.
func (l *Listening) unix(who account.Account, path string) error {
	s, remove, err := listenAt(who, path)
	if err == nil {
		l.undo = append(l.undo, remove)
		go accept(s, l.announce)
	}
	return err
}

// listenAt opens a socket at a path, for its user alone. One that is there and that nobody
// listens on is replaced. The user may have changed what the path leads to, so remove has
// the user's rights, too, and removes only what was made here.
func listenAt(who account.Account, path string) (s *net.UnixListener, remove func(), err error) {
	if path == "" {
		return nil, nil, guest.Errorf(guest.CodeInvalid, "a socket needs a path")
	}
	var made os.FileInfo // nil: an abstract one
	err = as(who, func() error {
		addr := &net.UnixAddr{Name: path, Net: "unix"}
		s, err = net.ListenUnix("unix", addr)
		if errors.Is(err, unix.EADDRINUSE) && abandoned(path) {
			if err := os.Remove(path); err != nil {
				return err
			}
			s, err = net.ListenUnix("unix", addr)
		}
		if err != nil {
			return err
		}
		s.SetUnlinkOnClose(false)
		if path[0] == '@' {
			return nil
		}
		if err = os.Chmod(path, 0o600); err == nil {
			made, err = os.Lstat(path)
		}
		if err != nil {
			_ = s.Close()
		}
		return err
	})
	return s, func() {
		// While it still listens nobody else takes its path.
		_ = as(who, func() error {
			if now, err := os.Lstat(path); made == nil || err != nil || !os.SameFile(made, now) {
				return nil // it is an abstract one, or the user was quicker
			}
			return os.Remove(path)
		})
		_ = s.Close()
	}, err
}

// abandoned reports whether there is a socket that nobody listens on. A connection to what
// is no socket is refused, too.
func abandoned(path string) bool {
	if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
		return false
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// accept passes on what comes to a socket until that is closed.
func accept(s net.Listener, to func(net.Conn)) {
	for {
		conn, err := s.Accept()
		switch {
		case err == nil:
			go to(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			time.Sleep(100 * time.Millisecond) // out of descriptors
		}
	}
}

// announce keeps a connection until it is taken, for a while.
func (l *Listening) announce(conn net.Conn) {
	select {
	case l.slots <- struct{}{}:
	default:
		_ = conn.Close() // too many wait already
		return
	}
	defer func() { <-l.slots }()
	a := flow.Arrival{ID: guest.NewID(), From: conn.RemoteAddr().String()}
	taken := l.desk.keep(a.ID, conn)
	late := time.NewTimer(waitTime)
	defer late.Stop()
	select {
	case l.news <- a:
		select {
		case <-taken:
			return
		case <-l.done:
		case <-late.C:
		}
	case <-l.done:
	case <-late.C:
	}
	if conn, err := l.desk.Take(a.ID); err == nil {
		_ = conn.Close() // nobody came for it
	}
}

func (d *Desk) keep(id string, conn net.Conn) (taken <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = make(map[string]caller)
	}
	c := caller{conn, make(chan struct{})}
	d.waiting[id] = c
	return c.taken
}

// Take returns a connection that waits.
func (d *Desk) Take(id string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, ok := d.waiting[id]
	if !ok {
		return nil, guest.Errorf(guest.CodeNotFound, "no connection waits under that id")
	}
	delete(d.waiting, id)
	close(c.taken)
	return c.conn, nil
}

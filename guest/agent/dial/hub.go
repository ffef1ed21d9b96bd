package dial

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"banger/guest/agent/account"
)

// DefaultDir is where the sockets of "agent" are in a guest.
const DefaultDir = "/run/banger-ssh"

// hub is the socket at a path that stays the same for a user, however many clients offer
// what is behind it: programs in the guest have read the path once, and outlive clients.
// The latest client that is still there gets the connections.
type hub struct {
	path    string
	clients []*Listening
	remove  func()
}

// join adds a client to its user's hub, which it makes if there is none.
func (d *Desk) join(who account.Account, l *Listening) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hubs[who.UID]
	if h == nil {
		dir := d.Dir
		if dir == "" {
			dir = DefaultDir
		}
		var err error
		if h, err = d.open(who, filepath.Join(dir, strconv.Itoa(int(who.UID)))); err != nil {
			return err
		}
	}
	h.clients = append(h.clients, l)
	l.address = h.path
	l.undo = append(l.undo, func() { d.leave(who.UID, l) })
	return nil
}

// open makes a hub with its directory, which is its user's. It needs d.mu.
func (d *Desk) open(who account.Account, dir string) (*hub, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := os.Lchown(dir, int(who.UID), int(who.GID)); err != nil {
			return nil, err
		}
	}
	h := &hub{path: filepath.Join(dir, "agent.sock")}
	s, remove, err := listenAt(who, h.path)
	if err != nil {
		return nil, err
	}
	h.remove = remove
	if d.hubs == nil {
		d.hubs = make(map[uint32]*hub)
	}
	d.hubs[who.UID] = h
	go accept(s, func(conn net.Conn) {
		d.mu.Lock()
		var latest *Listening
		if n := len(h.clients); n > 0 {
			latest = h.clients[n-1]
		}
		d.mu.Unlock()
		if latest == nil {
			_ = conn.Close()
			return
		}
		latest.announce(conn)
	})
	return h, nil
}

// leave takes a client out of its hub. The last one takes the hub away.
func (d *Desk) leave(uid uint32, l *Listening) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hubs[uid]
	h.clients = slices.DeleteFunc(h.clients, func(other *Listening) bool { return other == l })
	if len(h.clients) == 0 {
		delete(d.hubs, uid)
		h.remove()
	}
}

// Clients returns how many clients offer an agent.
func (d *Desk) Clients() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range d.hubs {
		n += len(h.clients)
	}
	return n
}

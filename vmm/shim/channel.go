package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"banger/guest"
	"banger/guest/link"
	"banger/host/unixsock"
)

const (
	connectPause = time.Millisecond // between two tries to reach a VMM's socket, growing
	connectMax   = 100 * time.Millisecond
	vsockPause   = 5 * time.Millisecond // between two tries to reach a booting guest
	watchPause   = time.Second

	channelBuffer = 40 << 10 // bytes in the socket to the VMM: a frame of bulk, in one piece of the kernel's
)

// channel is the host's side of the link while the VMM lives, on one connection after
// another.
type channel struct {
	path      string
	vsock     uint32        // see Config
	connected chan struct{} // closed at the first connection

	mu      sync.Mutex
	mux     *link.Mux     // nil while there is no connection
	changed chan struct{} // closed when mux changes
	over    bool          // the VMM has ended, or the channel was released

	released, frozen func()          // close the channels below, once
	letGo            <-chan struct{} // the host has disconnected for good
	freezes          <-chan struct{} // the guest has said that it is frozen
}

func newChannel(path string, vsock uint32) *channel {
	letGo, freezes := make(chan struct{}), make(chan struct{})
	return &channel{
		path: path, vsock: vsock, connected: make(chan struct{}), changed: make(chan struct{}),
		released: sync.OnceFunc(func() { close(letGo) }), letGo: letGo,
		frozen: sync.OnceFunc(func() { close(freezes) }), freezes: freezes,
	}
}

// keep keeps the channel connected until ctx, the VMM's life, ends.
func (c *channel) keep(ctx context.Context) {
	for first := true; ; first = false {
		conn := c.connect(ctx)
		if conn == nil {
			c.set(nil, true)
			return
		}
		if u, ok := conn.(*net.UnixConn); ok {
			// A keystroke waits for what is in this buffer. A small one is no slower.
			_ = u.SetWriteBuffer(channelBuffer)
		}
		mux := link.New(conn, link.Host)
		c.set(mux, false)
		if first {
			close(c.connected)
		}
		select {
		case <-c.letGo:
			_ = mux.Close() // never fails
			c.set(nil, true)
			return
		case <-mux.Done():
			c.set(nil, false)
			pause(ctx, connectMax)
		case <-ctx.Done():
			select { // what a dead VMM left in the socket is still read
			case <-mux.Done():
			case <-time.After(drain):
				_ = mux.Close() // never fails
			}
		}
	}
}

func (c *channel) set(m *link.Mux, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mux, c.over = m, over
	close(c.changed)
	c.changed = make(chan struct{})
}

// open opens a stream, waiting for the VMM and its guest until ctx ends: a control
// stream where ctx says so (guest.IsControl).
func (c *channel) open(ctx context.Context) (*link.Stream, error) {
	for {
		c.mu.Lock()
		mux, changed, over := c.mux, c.changed, c.over
		c.mu.Unlock()
		if over {
			return nil, errors.New("the VM has ended, or is being made a template")
		}
		if mux != nil {
			open := mux.Open
			if guest.IsControl(ctx) {
				open = mux.OpenControl
			}
			s, err := open(ctx)
			if err == nil || mux.Err() == nil {
				return s, err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("the VMM has not answered on its channel: %w", ctx.Err())
		}
	}
}

func (c *channel) established() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mux != nil && c.mux.Established()
}

// connect connects to the guest's port, which for a vsock means to wait until the
// guest's agent listens. It returns nil when ctx has ended.
func (c *channel) connect(ctx context.Context) net.Conn {
	for {
		conn := connect(ctx, c.path)
		if conn == nil || c.vsock == 0 {
			return conn
		}
		if err := joinVsock(ctx, conn, c.vsock); err == nil {
			return conn
		}
		_ = conn.Close()
		if !pause(ctx, vsockPause) {
			return nil
		}
	}
}

// joinVsock makes the VMM connect conn to a port of the guest (Firecracker's docs/vsock.md,
// "Host-Initiated Connections"). The VMM hangs up if nobody listens there, or if a booting
// guest's driver doesn't answer within 2 s.
func joinVsock(ctx context.Context, conn net.Conn, port uint32) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	line, err := readLine(conn)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(line), "OK ") {
		return fmt.Errorf("the VMM says %.40q", line)
	}
	return nil
}

// connect connects to a socket of the VMM, and waits until it is there. It doesn't follow a
// symbolic link, which a hostile jailed VMM could put there. It returns nil when ctx has
// ended.
func connect(ctx context.Context, path string) net.Conn {
	// The pause grows with the time waited so far, so that at most a part of it is lost.
	for began := time.Now(); ; {
		if conn, err := unixsock.DialItself(ctx, path); err == nil {
			return conn
		}
		if !pause(ctx, min(connectPause+time.Since(began)/8, connectMax)) {
			return nil
		}
	}
}

// pause waits, and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

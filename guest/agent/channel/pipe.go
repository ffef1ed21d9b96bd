package channel

import (
	"io"
	"sync"
)

// pipe is a byte pipe made of the newest of several connections. What is written without a
// connection, or to one that breaks, is lost, as on a virtio-serial port; a read waits for
// the next connection.
type pipe struct {
	mu      sync.Mutex
	changed sync.Cond
	conn    io.ReadWriteCloser // nil: none
	closed  bool
}

func newPipe() *pipe {
	p := &pipe{}
	p.changed.L = &p.mu
	return p
}

// take makes conn the newest connection.
func (p *pipe) take(conn io.ReadWriteCloser) {
	p.mu.Lock()
	old, closed := p.conn, p.closed
	if !closed {
		p.conn = conn
	}
	p.changed.Broadcast()
	p.mu.Unlock()
	if closed {
		old = conn
	}
	if old != nil {
		_ = old.Close() // wakes who reads or writes it
	}
}

// drop forgets a connection that broke.
func (p *pipe) drop(conn io.ReadWriteCloser) {
	p.mu.Lock()
	if p.conn == conn {
		p.conn = nil
	}
	p.mu.Unlock()
	_ = conn.Close()
}

// Read implements io.Reader. Its only error is that the pipe was closed.
func (p *pipe) Read(b []byte) (int, error) {
	for {
		p.mu.Lock()
		for p.conn == nil && !p.closed {
			p.changed.Wait()
		}
		conn, closed := p.conn, p.closed
		p.mu.Unlock()
		if closed {
			return 0, io.ErrClosedPipe
		}
		if n, err := conn.Read(b); n > 0 || err == nil {
			return n, nil
		}
		p.drop(conn)
	}
}

// Write implements io.Writer. It doesn't report lost bytes.
func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	conn, closed := p.conn, p.closed
	p.mu.Unlock()
	if closed {
		return 0, io.ErrClosedPipe
	}
	if conn == nil {
		return len(b), nil
	}
	if _, err := conn.Write(b); err != nil {
		p.drop(conn)
	}
	return len(b), nil
}

// hungUp reports whether there is no connection.
func (p *pipe) hungUp() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn == nil, nil
}

// Close implements io.Closer.
func (p *pipe) Close() error {
	p.mu.Lock()
	conn := p.conn
	p.conn, p.closed = nil, true
	p.changed.Broadcast()
	p.mu.Unlock()
	if conn != nil {
		return conn.Close()
	}
	return nil
}

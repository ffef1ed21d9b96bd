package link

import (
	"errors"
	"io"
	"sync"
	"time"
)

// Port makes a guest's virtio-serial port fit for New: while no host is
// connected such a port answers reads with an end of file that isn't one (see
// port_fops_read in Linux' drivers/char/virtio_console.c), so an end of file
// means to wait for a host. Nothing wakes a reader when one connects; hence the
// pauses, 5 to 50 ms, only while there is none.
func Port(f io.ReadWriteCloser) io.ReadWriteCloser {
	return &port{ReadWriteCloser: f, closed: make(chan struct{})}
}

type port struct {
	io.ReadWriteCloser
	once   sync.Once
	closed chan struct{}
}

func (p *port) Read(b []byte) (int, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		n, err := p.ReadWriteCloser.Read(b)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		select {
		case <-time.After(pause):
		case <-p.closed:
			return 0, io.ErrClosedPipe
		}
	}
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.ReadWriteCloser.Close()
}

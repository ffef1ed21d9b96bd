package link

import (
	"errors"
	"io"
	"sync"
	"time"
)

// Port adapts a guest's virtio-serial port for New. While no host is connected, a read of
// such a port returns end of file (port_fops_read in Linux' drivers/char/virtio_console.c).
// Port then tries again, after 5 to 50 ms, as nothing wakes a reader when a host connects.
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

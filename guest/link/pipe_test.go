package link_test

import (
	"io"
	"math/rand/v2"
	"sync"
)

// port is a virtio-serial port as QEMU and Linux make it behave:
// what a host writes while nobody reads is kept, of its last bytes a part
// arrives after it has gone, glued to the next host's; what the guest writes
// to no host or to a dead one is lost, but for a tail that the next host gets;
// the guest sees an end of file while no host is there, and may miss it.
type port struct {
	mu      sync.Mutex
	changed *sync.Cond
	rnd     *rand.Rand
	toGuest []byte
	toHost  []byte
	host    *hostEnd
	closed  bool
}

const portBuffer = 48 << 10

func newPort(seed uint64) *port {
	p := &port{rnd: rand.New(rand.NewPCG(seed, 1))}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// Read is the guest's.
func (p *port) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.toGuest) == 0 {
		if p.closed {
			return 0, io.ErrClosedPipe
		}
		if p.host == nil {
			return 0, io.EOF
		}
		p.changed.Wait()
	}
	n := copy(b, p.toGuest[:1+p.rnd.IntN(len(p.toGuest))])
	p.toGuest = p.toGuest[n:]
	p.changed.Broadcast()
	return n, nil
}

// Write is the guest's.
func (p *port) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := 0; n < len(b); {
		for p.host != nil && len(p.toHost) >= portBuffer && !p.closed {
			p.changed.Wait()
		}
		if p.closed {
			return n, io.ErrClosedPipe
		}
		k := min(len(b)-n, portBuffer)
		if p.host != nil {
			k = min(k, portBuffer-len(p.toHost))
			p.toHost = append(p.toHost, b[n:n+k]...)
		}
		n += k
		p.changed.Broadcast()
	}
	return len(b), nil
}

// Close is the guest's: its port is closed for good.
func (p *port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changed.Broadcast()
	return nil
}

// connect lets a host connect that dies after so many bytes; 0: never.
func (p *port) connect(budget int) *hostEnd {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &hostEnd{p: p, budget: budget, mortal: budget > 0}
	p.host = h
	p.changed.Broadcast()
	return h
}

// hostEnd is one host's connection.
type hostEnd struct {
	p      *port
	budget int
	mortal bool
	dead   bool
}

// spend returns how many of n bytes this host lives to move.
func (h *hostEnd) spend(n int) int {
	if h.mortal {
		n = min(n, h.budget)
		h.budget -= n
	}
	return n
}

func (h *hostEnd) Read(b []byte) (int, error) {
	p := h.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.toHost) == 0 && !h.dead {
		p.changed.Wait()
	}
	if h.dead {
		return 0, io.EOF
	}
	n := h.spend(copy(b, p.toHost[:1+p.rnd.IntN(len(p.toHost))]))
	p.toHost = p.toHost[n:]
	h.dieIfSpent()
	p.changed.Broadcast()
	return n, nil
}

func (h *hostEnd) Write(b []byte) (int, error) {
	p := h.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := 0; n < len(b); {
		for len(p.toGuest) >= portBuffer && !h.dead {
			p.changed.Wait()
		}
		if h.dead {
			return n, io.ErrClosedPipe
		}
		k := h.spend(min(len(b)-n, portBuffer-len(p.toGuest)))
		p.toGuest = append(p.toGuest, b[n:n+k]...)
		n += k
		h.dieIfSpent()
		p.changed.Broadcast()
	}
	return len(b), nil
}

func (h *hostEnd) dieIfSpent() {
	if h.mortal && h.budget == 0 {
		h.die()
	}
}

// die drops the connection, and bytes with it.
func (h *hostEnd) die() {
	if h.dead {
		return
	}
	h.dead = true
	p := h.p
	if n := len(p.toGuest); n > 4096 {
		p.toGuest = p.toGuest[:4096+p.rnd.IntN(n-4096+1)]
	}
	if n := len(p.toHost); n > 0 {
		p.toHost = p.toHost[p.rnd.IntN(n+1):]
	}
	if p.host == h {
		p.host = nil
	}
	p.changed.Broadcast()
}

func (h *hostEnd) Close() error {
	h.p.mu.Lock()
	defer h.p.mu.Unlock()
	h.die()
	return nil
}

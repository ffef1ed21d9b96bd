package vhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxQueue bounds how many descriptors a queue has.
const maxQueue = 1024

// memory is the guest's, as it was handed over.
type memory []region

type region struct {
	guest uint64 // the address that the guest's kernel has for it
	data  []byte // mapped
}

// at returns n bytes of the guest's memory at an address.
func (m memory) at(addr, n uint64) ([]byte, error) {
	for _, r := range m {
		if size := uint64(len(r.data)); addr >= r.guest && addr-r.guest <= size && n <= size-(addr-r.guest) {
			return r.data[addr-r.guest:][:n:n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at %#x aren't in the guest's memory", n, addr)
}

func (m memory) unmap() {
	for _, r := range m {
		_ = unix.Munmap(r.data) // it was mapped so
	}
}

// queue is a split virtqueue (virtio 1.2, 2.7), seen by the device.
type queue struct {
	mem               memory
	size              uint16
	desc, avail, used []byte
	next, done        uint16   // indexes of avail and used
	call              *os.File // by which the guest is interrupted
}

const (
	descSize = 16
	usedSize = 8
	// Flags of a descriptor.
	flagNext, flagWrite = 1, 2
	// A flag of avail.
	noInterrupt = 1
)

// newQueue returns a queue of a power of two descriptors, whose parts are at these addresses,
// and which goes on at an index.
func newQueue(mem memory, size uint32, desc, avail, used uint64, base uint16) (*queue, error) {
	if size == 0 || size > maxQueue || size&(size-1) != 0 {
		return nil, fmt.Errorf("a queue of %d descriptors", size)
	}
	q := &queue{mem: mem, size: uint16(size), next: base, done: base}
	for _, part := range []struct {
		to   *[]byte
		addr uint64
		n    uint32
	}{{&q.desc, desc, descSize * size}, {&q.avail, avail, 4 + 2*size + 2}, {&q.used, used, 4 + usedSize*size + 2}} {
		var err error
		if *part.to, err = mem.at(part.addr, uint64(part.n)); err != nil {
			return nil, fmt.Errorf("a queue: %w", err)
		}
		if uintptr(unsafe.Pointer(&(*part.to)[0]))%4 != 0 { // of a whole word at a time
			return nil, fmt.Errorf("a queue at the odd address %#x", part.addr)
		}
	}
	return q, nil
}

// word is the first of a part of a queue: 16 bits of flags, then the index.
func word(part []byte) *uint32 { return (*uint32)(unsafe.Pointer(&part[0])) }

// chain is what the guest gave us to read or to write.
type chain struct {
	id      uint16
	out, in [][]byte // parts to read, parts to write
}

// take returns the next chain; ok is false if there is none.
func (q *queue) take() (c chain, ok bool, err error) {
	index := uint16(atomic.LoadUint32(word(q.avail)) >> 16)
	if index == q.next {
		return c, false, nil
	}
	if index-q.next > q.size {
		return c, false, fmt.Errorf("%d chains in a queue of %d", index-q.next, q.size)
	}
	c.id = binary.LittleEndian.Uint16(q.avail[4+2*int(q.next%q.size):])
	q.next++
	return c, true, q.walk(&c)
}

// walk follows a chain's descriptors.
func (q *queue) walk(c *chain) error {
	at := c.id
	for range q.size {
		if at >= q.size {
			return fmt.Errorf("descriptor %d of %d", at, q.size)
		}
		var d [descSize]byte // the guest may change it meanwhile
		copy(d[:], q.desc[descSize*int(at):])
		part, err := q.mem.at(binary.LittleEndian.Uint64(d[:]), uint64(binary.LittleEndian.Uint32(d[8:])))
		if err != nil {
			return err
		}
		flags := binary.LittleEndian.Uint16(d[12:])
		switch {
		case flags&^(flagNext|flagWrite) != 0:
			return fmt.Errorf("descriptor flags %#x", flags)
		case flags&flagWrite != 0:
			c.in = append(c.in, part)
		case c.in != nil:
			return errors.New("a part to read after one to write")
		default:
			c.out = append(c.out, part)
		}
		if flags&flagNext == 0 {
			return nil
		}
		at = binary.LittleEndian.Uint16(d[14:])
	}
	return errors.New("a chain of descriptors without an end")
}

// put gives a chain back, n bytes of which were written.
func (q *queue) put(c chain, n int) {
	at := q.used[4+usedSize*int(q.done%q.size):]
	binary.LittleEndian.PutUint32(at, uint32(c.id))
	binary.LittleEndian.PutUint32(at[4:], uint32(n))
	q.done++
	atomic.StoreUint32(word(q.used), uint32(q.done)<<16)
}

// wanted reports whether the guest wants to be interrupted for the chains that were given back. One
// that doesn't looks for them once more before it does again.
func (q *queue) wanted() bool { return atomic.LoadUint32(word(q.avail))&noInterrupt == 0 }

// interrupt tells the guest that chains were given back. If there is no room for that, there
// are interrupts that it hasn't seen.
func (q *queue) interrupt() {
	if q.call == nil {
		return
	}
	if raw, err := q.call.SyscallConn(); err == nil {
		one := [8]byte{1}
		_ = raw.Write(func(fd uintptr) bool { _, _ = unix.Write(int(fd), one[:]); return true })
	}
}

// gather copies from parts to each of to, in turn.
func gather(parts [][]byte, to ...[]byte) {
	for _, b := range to {
		for len(b) > 0 && len(parts) > 0 {
			n := copy(b, parts[0])
			b, parts[0] = b[n:], parts[0][n:]
			if len(parts[0]) == 0 {
				parts = parts[1:]
			}
		}
	}
}

// scatter copies each of from to parts, in turn.
func scatter(parts [][]byte, from ...[]byte) {
	for _, b := range from {
		for len(b) > 0 && len(parts) > 0 {
			n := copy(parts[0], b)
			b, parts[0] = b[n:], parts[0][n:]
			if len(parts[0]) == 0 {
				parts = parts[1:]
			}
		}
	}
}

// total is the length of parts.
func total(parts [][]byte) (n uint64) {
	for _, p := range parts {
		n += uint64(len(p))
	}
	return n
}

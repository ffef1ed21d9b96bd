package vhost

import (
	"errors"
	"fmt"
)

// send sends b to the guest, as it has room, and reports whether it did; false: the stream
// has ended. The guest is interrupted once for all buffers that it has, as each interrupt costs it
// as much as the copy of several.
func (d *Device) send(s *stream, b []byte) (sent bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	filled := false
	defer func() { d.tell(filled) }()
	for len(b) > 0 {
		if s.gone {
			return false, nil
		}
		if err := d.flush(); err != nil {
			return false, err
		}
		if d.rx != nil && len(d.replies) == 0 {
			c, ok, err := d.rx.take()
			if err != nil {
				return false, err
			}
			if ok {
				n, err := d.fill(c, s.packet(opData), b)
				if err != nil {
					return false, err
				}
				s.sent += uint32(n)
				b, filled = b[n:], true
				continue
			}
		}
		d.tell(filled)
		filled = false
		d.changed.Wait()
	}
	return true, nil
}

// tell interrupts the guest if it has got buffers back and wants to know.
func (d *Device) tell(filled bool) {
	if filled && d.rx != nil && d.rx.wanted() {
		d.rx.interrupt()
	}
}

// fill puts a packet into a buffer of the guest's, with as much of its data as has room.
func (d *Device) fill(c chain, h header, data []byte) (n int, err error) {
	room := total(c.in)
	if room < headerSize || room == headerSize && len(data) > 0 {
		return 0, fmt.Errorf("a buffer of %d bytes for a packet", room)
	}
	n = int(min(uint64(len(data)), room-headerSize))
	h.size = uint32(n)
	head := h.toGuest()
	scatter(c.in, head[:], data[:n])
	d.rx.put(c, headerSize+n)
	return n, nil
}

// reply sends a packet without data, as soon as the guest has room.
func (d *Device) reply(h header) {
	d.replies = append(d.replies, h)
	d.due.Signal()
}

// flushes sends replies until the device has ended.
func (d *Device) flushes() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.down == nil {
		if err := d.flush(); err != nil {
			return err
		}
		d.due.Wait()
	}
	return nil
}

// flush sends the replies that the guest has room for.
func (d *Device) flush() error {
	filled := false
	defer func() {
		if filled {
			d.tell(filled)
			d.changed.Broadcast()
		}
	}()
	for len(d.replies) > 0 && d.rx != nil {
		c, ok, err := d.rx.take()
		if err != nil || !ok {
			return err
		}
		if _, err := d.fill(c, d.replies[0], nil); err != nil {
			return err
		}
		d.replies, filled = d.replies[1:], true
	}
	return nil
}

// listen handles what the guest has sent.
func (d *Device) listen(q *queue) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	filled := false
	for d.tx == q {
		if len(d.replies) > maxReplies {
			d.changed.Wait()
			continue
		}
		c, ok, err := q.take()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if err := d.hear(c); err != nil {
			return err
		}
		q.put(c, 0)
		filled = true
	}
	if filled && q.wanted() {
		q.interrupt()
	}
	return nil
}

// hear handles a packet that the guest sent.
func (d *Device) hear(c chain) error {
	var raw [headerSize]byte
	all := total(c.out)
	if all < headerSize {
		return fmt.Errorf("a packet of %d bytes", all)
	}
	gather(c.out, raw[:])
	h, ours := fromGuest(&raw)
	if uint64(h.size) > all-headerSize {
		return fmt.Errorf("a packet says that it has %d bytes, and has %d", h.size, all-headerSize)
	}
	s := d.streams[h.host]
	switch {
	case !ours || h.kind != typeStream:
		d.refuse(h)
	case s == nil || s.guest != h.guest:
		d.refuse(h)
	default:
		s.window, s.read = h.window, h.read
		d.changed.Broadcast()
		return d.take(s, h, c.out)
	}
	return nil
}

// refuse answers a packet that belongs to no stream.
func (d *Device) refuse(h header) {
	if h.op != opReset {
		d.reply(header{guest: h.guest, host: h.host, kind: h.kind, op: opReset})
	}
}

// take handles a packet of a stream.
func (d *Device) take(s *stream, h header, data [][]byte) error {
	switch {
	case h.op == opResponse && !s.open:
		s.open, s.ring = true, make([]byte, window)
	case !s.open: // a refusal, or nonsense
		d.drop(s)
	case h.op == opData:
		if int(h.size) > window-s.buffered || s.ended {
			d.drop(s)
			d.refuse(h)
			return nil
		}
		end := (s.start + s.buffered) % window
		first := s.ring[end:min(end+int(h.size), window)]
		gather(data, first, s.ring[:int(h.size)-len(first)])
		s.buffered += int(h.size)
	case h.op == opShutdown:
		s.ended = s.ended || h.flags&noSend != 0
	case h.op == opReset:
		s.ended = true
	case h.op == opCreditRequest:
		d.reply(s.packet(opCredit))
	case h.op == opCredit:
	default:
		return errors.New("a packet that is none of a stream's")
	}
	return nil
}

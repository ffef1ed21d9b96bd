package vhost

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const (
	answerWait = 2 * time.Second // for the guest to answer a connection
	lineWait   = 5 * time.Second // for the host's program to say where it wants to go
)

// stream is one connection of a program of the host. The device's mu guards it.
type stream struct {
	guest, host uint32 // ports
	conn        net.Conn
	open        bool // the guest has accepted
	ended       bool // the guest sends no more
	gone        bool // it is in no table any more

	// To the guest: how much was sent, what it can hold, and how much it has read.
	sent, window, read uint32
	// From the guest: a ring that holds buffered bytes from start on; how much the host has
	// read, and how much the guest knows of that.
	ring            []byte
	start, buffered int
	taken, told     uint32
}

// accept takes connections of programs of the host.
func (d *Device) accept(l *net.UnixListener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(answerWait / 100) // out of descriptors
			continue
		}
		go d.join(conn)
	}
}

// join makes a program's connection a stream to the port that it asks for.
func (d *Device) join(conn net.Conn) {
	port, err := asked(conn)
	if err != nil {
		_ = conn.Close()
		return
	}
	s, err := d.connect(conn, port)
	if err != nil {
		_ = conn.Close()
		return
	}
	if _, err := fmt.Fprintf(conn, "OK %d\n", s.host); err != nil {
		d.reset(s)
		return
	}
	go d.toHost(s)
	d.worker(func() error { return d.toGuest(s) })
}

// asked reads the line "CONNECT port", and not a byte more.
func asked(conn net.Conn) (port uint32, err error) {
	_ = conn.SetReadDeadline(time.Now().Add(lineWait)) // a Unix socket always can
	line, err := bufio.NewReaderSize(io.LimitReader(&single{conn}, 32), 32).ReadString('\n')
	if err == nil {
		_, err = fmt.Sscanf(strings.TrimSpace(line), "CONNECT %d", &port)
	}
	_ = conn.SetReadDeadline(time.Time{})
	return port, err
}

// single reads a byte at a time.
type single struct{ r io.Reader }

func (s *single) Read(b []byte) (int, error) { return s.r.Read(b[:min(1, len(b))]) }

// connect asks the guest for a connection, once it has a driver, and waits for its answer.
func (d *Device) connect(conn net.Conn, port uint32) (*stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.streams) >= maxStreams || len(d.replies) > maxReplies {
		return nil, errors.New("too many connections")
	}
	d.port++
	s := &stream{guest: port, host: d.port, conn: conn}
	d.streams[s.host] = s
	for d.rx == nil && d.down == nil {
		d.changed.Wait()
	}
	d.reply(s.packet(opRequest))
	late := time.AfterFunc(answerWait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !s.open {
			d.drop(s)
		}
	})
	defer late.Stop()
	for !s.open && !s.gone && d.down == nil {
		d.changed.Wait()
	}
	if !s.open || s.gone {
		d.drop(s)
		return nil, errors.New("the guest doesn't answer")
	}
	return s, nil
}

// packet is a header of this stream, with what its sender has to tell.
func (s *stream) packet(op uint16) header {
	s.told = s.taken
	return header{guest: s.guest, host: s.host, kind: typeStream, op: op, window: window, read: s.taken}
}

// drop forgets a stream and closes its connection.
func (d *Device) drop(s *stream) {
	if s.gone {
		return
	}
	s.gone = true
	delete(d.streams, s.host)
	_ = s.conn.Close() // wakes who reads or writes it
	d.changed.Broadcast()
}

// reset drops a stream and tells the guest.
func (d *Device) reset(s *stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !s.gone {
		d.drop(s)
		d.reply(s.packet(opReset))
	}
}

// toGuest copies from the host to the guest, as far as that has room, until the host ends
// the connection.
func (d *Device) toGuest(s *stream) error {
	defer d.reset(s)
	buf := make([]byte, maxRead)
	for {
		room := d.room(s)
		if room == 0 {
			return nil
		}
		n, err := s.conn.Read(buf[:min(room, maxRead)])
		if sent, err := d.send(s, buf[:n]); err != nil || !sent {
			return err
		}
		if err != nil {
			return nil
		}
	}
}

// room waits until the guest has room for the stream's data, and returns how much; 0: the
// stream has ended.
func (d *Device) room(s *stream) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !s.gone {
		if under := s.sent - s.read; under < s.window {
			return int(s.window - under)
		}
		d.changed.Wait()
	}
	return 0
}

// toHost copies from the guest to the host, until the guest ends the connection.
func (d *Device) toHost(s *stream) {
	for {
		b := d.waiting(s)
		if len(b) == 0 {
			break
		}
		n, err := s.conn.Write(b)
		if err != nil || !d.took(s, n) {
			break
		}
	}
	d.reset(s)
}

// waiting waits for data of the guest, and returns what can be had in one piece; nothing:
// there won't be any more.
func (d *Device) waiting(s *stream) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s.buffered == 0 && !s.ended && !s.gone {
		d.changed.Wait()
	}
	if s.gone {
		return nil
	}
	return s.ring[s.start:min(s.start+s.buffered, window)]
}

// took says that n bytes have been read, which makes room for the guest to send more. It
// reports whether the stream goes on.
func (d *Device) took(s *stream, n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.start = (s.start + n) % window
	s.buffered -= n
	s.taken += uint32(n)
	if s.taken-s.told >= creditStep && !s.gone {
		d.reply(s.packet(opCredit))
	}
	return !s.gone
}

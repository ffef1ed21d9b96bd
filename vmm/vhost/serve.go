package vhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Messages of a VMM, each with what it brings.
const (
	getFeatures   = 1
	setFeatures   = 2
	setOwner      = 3
	setMemory     = 5
	setSize       = 8
	setAddresses  = 9
	setBase       = 10
	setKick       = 12
	setCall       = 13
	getProtocol   = 15
	setProtocol   = 16
	setEnabled    = 18
	setBack       = 21
	getConfig     = 24
	messageHeader = 12
	maxPayload    = 512
	maxRegions    = 8
	version       = 1
	flagReply     = 1 << 2
	flagNeedReply = 1 << 3
	noFile        = 1 << 8 // in setKick and setCall
	features      = 1<<32 | protocolBit
	protocolBit   = 1 << 30
	protocol      = 1<<3 | 1<<5 | 1<<9 // answers when asked for one, a way back, configuration space
	rxQueue       = 0
	txQueue       = 1
	queues        = 3 // the third is for events, of which there are none
	configHeader  = 12
)

// server is a VMM's connection.
type server struct {
	d     *Device
	conn  *net.UnixConn
	mem   memory
	rings [queues]ring
	back  *os.File // a way to the VMM that we don't need; without it UML 6.12 has no interrupt for its queues
}

// ring is a queue that the VMM describes, piece by piece.
type ring struct {
	size              uint32
	base              uint16
	desc, avail, used uint64
	kick, call        *os.File
	enabled           bool
	works             sync.WaitGroup // while enabled
}

type message struct {
	request, flags uint32
	payload        []byte
	files          []*os.File
}

func (m *message) close() {
	for _, f := range m.files {
		_ = f.Close()
	}
}

// serve handles a VMM's messages until one is wrong or it hangs up.
func (d *Device) serve(conn *net.UnixConn) error {
	s := &server{d: d, conn: conn}
	defer s.close()
	for {
		m, err := s.receive()
		if err != nil {
			return err
		}
		answer, err := s.handle(&m)
		m.close()
		if err != nil {
			return fmt.Errorf("message %d: %w", m.request, err)
		}
		if answer == nil && m.flags&flagNeedReply != 0 {
			answer = binary.LittleEndian.AppendUint64(nil, 0)
		}
		if answer == nil {
			continue
		}
		reply := binary.LittleEndian.AppendUint32(nil, m.request)
		reply = binary.LittleEndian.AppendUint32(reply, version|flagReply)
		reply = binary.LittleEndian.AppendUint32(reply, uint32(len(answer)))
		if _, err := conn.Write(append(reply, answer...)); err != nil {
			return err
		}
	}
}

// close gives back all that the VMM handed over.
func (s *server) close() {
	for i := range s.rings {
		s.stop(i)
		shut(&s.rings[i].kick)
		shut(&s.rings[i].call)
	}
	shut(&s.back)
	s.mem.unmap()
	_ = s.conn.Close()
}

// receive reads one message.
func (s *server) receive() (m message, err error) {
	head, oob := make([]byte, messageHeader), make([]byte, unix.CmsgSpace(4*maxRegions))
	n, oobn, flags, _, err := s.conn.ReadMsgUnix(head, oob)
	if errors.Is(err, io.EOF) || err == nil && n == 0 {
		return m, ErrEnded
	}
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrEnded, err)
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return m, err
	}
	for _, c := range controls {
		fds, _ := unix.ParseUnixRights(&c) // none in another kind
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			_ = unix.SetNonblock(fd, true) // so that the runtime waits for it, and Close ends that
			m.files = append(m.files, os.NewFile(uintptr(fd), "of the VMM"))
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return m, errors.New("more files than any message has")
	}
	if _, err = io.ReadFull(s.conn, head[n:]); err != nil {
		return m, err
	}
	m.request, m.flags = binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:])
	size := binary.LittleEndian.Uint32(head[8:])
	if m.flags&3 != version || size > maxPayload {
		return m, fmt.Errorf("message %d has the flags %#x and %d bytes", m.request, m.flags, size)
	}
	m.payload = make([]byte, size)
	_, err = io.ReadFull(s.conn, m.payload)
	return m, err
}

// handle does what a message says. answer is what it asks for; nil: nothing.
func (s *server) handle(m *message) (answer []byte, err error) {
	le := binary.LittleEndian
	p := make([]byte, maxPayload) // a message that is too short has zeros
	copy(p, m.payload)
	switch m.request {
	case setOwner:
		return nil, nil
	case getFeatures:
		return le.AppendUint64(nil, features), nil
	case getProtocol:
		return le.AppendUint64(nil, protocol), nil
	case setFeatures:
		if f := le.Uint64(p); f&^features != 0 || f&^protocolBit == 0 {
			return nil, fmt.Errorf("features %#x", f)
		}
		return nil, nil
	case setProtocol:
		if f := le.Uint64(p); f&^protocol != 0 {
			return nil, fmt.Errorf("features %#x", f)
		}
		return nil, nil
	case getConfig:
		return config(m.payload)
	case setMemory:
		return nil, s.setMemory(p, m.files)
	case setBack:
		return nil, replace(&s.back, m)
	case setSize, setAddresses, setBase, setKick, setCall, setEnabled:
		return nil, s.setRing(m, p)
	}
	return nil, errors.New("isn't known")
}

// config answers a question for the device's configuration: the guest's address.
func config(asked []byte) ([]byte, error) {
	if len(asked) < configHeader {
		return nil, errors.New("too short")
	}
	at, size := binary.LittleEndian.Uint32(asked), binary.LittleEndian.Uint32(asked[4:])
	room := asked[configHeader:]
	space := binary.LittleEndian.AppendUint64(nil, guestCID)
	if uint64(size) != uint64(len(room)) || uint64(at)+uint64(size) > uint64(len(space)) {
		return nil, fmt.Errorf("%d bytes at %d of the configuration", size, at)
	}
	copy(room, space[at:])
	return asked, nil
}

// setMemory maps the guest's memory.
func (s *server) setMemory(p []byte, files []*os.File) error {
	n := binary.LittleEndian.Uint32(p)
	if n == 0 || n > maxRegions || int(n) != len(files) {
		return fmt.Errorf("%d regions in %d files", n, len(files))
	}
	for i := range s.rings {
		if s.rings[i].enabled {
			return errors.New("memory changes below a queue")
		}
	}
	s.mem.unmap()
	s.mem = nil
	for i, f := range files {
		at := p[8+32*i:]
		r := region{guest: binary.LittleEndian.Uint64(at)}
		size, offset := binary.LittleEndian.Uint64(at[8:]), binary.LittleEndian.Uint64(at[24:])
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if whole := uint64(st.Size()); !st.Mode().IsRegular() || size == 0 || offset > whole || size > whole-offset || r.guest > math.MaxUint64-size {
			return fmt.Errorf("%d bytes at %d of a file of %d as memory", size, offset, st.Size())
		}
		if r.data, err = unix.Mmap(int(f.Fd()), int64(offset), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return fmt.Errorf("map memory: %w", err)
		}
		s.mem = append(s.mem, r)
	}
	return nil
}

// setRing handles the messages about one queue.
func (s *server) setRing(m *message, p []byte) error {
	le := binary.LittleEndian
	index, value := le.Uint32(p), le.Uint32(p[4:])
	file := m.request == setKick || m.request == setCall
	if file {
		index &^= noFile
	}
	if index >= queues {
		return fmt.Errorf("queue %d", index)
	}
	r := &s.rings[index]
	if r.enabled && m.request != setEnabled {
		return errors.New("a queue changes that is in use")
	}
	switch m.request {
	case setSize:
		r.size = value
	case setBase:
		r.base = uint16(value)
	case setAddresses:
		r.desc, r.used, r.avail = le.Uint64(p[8:]), le.Uint64(p[16:]), le.Uint64(p[24:])
	case setKick:
		return replace(&r.kick, m)
	case setCall:
		return replace(&r.call, m)
	case setEnabled:
		if value == 0 {
			s.stop(int(index))
			return nil
		}
		return s.start(int(index))
	}
	return nil
}

// replace keeps the message's one file in place of an earlier one.
func replace(at **os.File, m *message) error {
	if len(m.files) != 1 {
		return fmt.Errorf("%d files", len(m.files))
	}
	shut(at)
	*at, m.files = m.files[0], nil
	return nil
}

// shut closes a file, if there is one.
func shut(at **os.File) {
	if *at != nil {
		_ = (*at).Close()
		*at = nil
	}
}

// start begins to use a queue.
func (s *server) start(i int) error {
	r, d := &s.rings[i], s.d
	if r.enabled {
		return nil
	}
	if r.kick == nil || r.call == nil {
		return errors.New("a queue without its files")
	}
	q, err := newQueue(s.mem, r.size, r.desc, r.avail, r.used, r.base)
	if err != nil {
		return err
	}
	q.call = r.call
	r.enabled = true
	d.mu.Lock()
	defer d.mu.Unlock()
	work := d.wake
	switch i {
	case rxQueue:
		d.rx = q
	case txQueue:
		d.tx = q
		work = func() error { return d.listen(q) }
	}
	d.changed.Broadcast()
	kick := r.kick // stop may forget it before the worker begins
	r.works.Go(func() { d.worker(func() error { return attend(kick, work) }) })
	return nil
}

// attend does work, and again each time that the guest has something new, until kick is
// closed.
func attend(kick *os.File, work func() error) error {
	for count := make([]byte, 8); ; {
		if err := work(); err != nil {
			return err
		}
		switch _, err := kick.Read(count); {
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("a queue's event: %w", err)
		}
	}
}

// stop ends the use of a queue. What the guest had is over with it.
func (s *server) stop(i int) {
	r, d := &s.rings[i], s.d
	if !r.enabled {
		return
	}
	r.enabled = false
	d.mu.Lock()
	switch i {
	case rxQueue:
		d.rx = nil
	case txQueue:
		d.tx = nil
	}
	for _, t := range d.streams {
		d.drop(t)
	}
	d.replies = nil
	d.changed.Broadcast()
	d.mu.Unlock()
	shut(&r.kick)
	r.works.Wait()
	shut(&r.call)
}

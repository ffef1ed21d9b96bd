package vhost

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// vmm is a VMM's side with a guest's driver, which keeps the rules unless a test breaks them.
type vmm struct {
	t      *testing.T
	conn   *net.UnixConn
	file   *os.File // memory
	mem    []byte
	rings  [queues]driverRing
	host   string // where the host's programs connect
	ended  chan error
	device *Device
}

// driverRing is the driver's side of a queue: descriptor i has the buffer i.
type driverRing struct {
	desc, avail, used []byte
	kick, call        *os.File
	next, seen        uint16 // of avail, of used
}

const (
	base     = 0x100000 // where the guest has its memory
	memSize  = 1 << 20
	ringSize = 16
	bufSize  = 4 << 10
)

// ringAt and bufferAt lay memory out.
func ringAt(i int) int          { return i * 4096 }
func bufferAt(queue, n int) int { return 64<<10 + (queue*ringSize+n)*bufSize }

// newVMM connects to a new device, and hands over memory; start starts its queues.
func newVMM(t *testing.T) *vmm {
	t.Helper()
	dir := t.TempDir()
	listen := func(name string) *net.UnixListener {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return l.(*net.UnixListener)
	}
	v := &vmm{t: t, host: filepath.Join(dir, "host"), ended: make(chan error, 1), device: New()}
	inside, outside := listen("vmm"), listen("host")
	go func() { v.ended <- v.device.Run(inside, outside) }()
	conn, err := net.Dial("unix", filepath.Join(dir, "vmm"))
	if err != nil {
		t.Fatal(err)
	}
	v.conn = conn.(*net.UnixConn)
	fd, err := unix.MemfdCreate("guest", 0)
	if err != nil {
		t.Fatal(err)
	}
	v.file = os.NewFile(uintptr(fd), "guest")
	if err := v.file.Truncate(memSize); err != nil {
		t.Fatal(err)
	}
	if v.mem, err = unix.Mmap(fd, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = v.conn.Close()
		if err := <-v.ended; err == nil {
			t.Error("the device ended without a reason")
		}
		_ = v.file.Close()
		for _, r := range v.rings {
			_, _ = r.kick.Close(), r.call.Close()
		}
	})
	return v
}

// say sends a message and returns the answer; nil when the device has hung up.
func (v *vmm) say(request uint32, payload []byte, files ...*os.File) []byte {
	v.t.Helper()
	var fds []int
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			v.t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			v.t.Fatal(err)
		}
	}
	le := binary.LittleEndian
	m := le.AppendUint32(le.AppendUint32(le.AppendUint32(nil, request), version|flagNeedReply), uint32(len(payload)))
	if _, _, err := v.conn.WriteMsgUnix(append(m, payload...), unix.UnixRights(fds...), nil); err != nil {
		return nil
	}
	head := make([]byte, messageHeader)
	if _, err := io.ReadFull(v.conn, head); err != nil {
		return nil
	}
	if le.Uint32(head) != request || le.Uint32(head[4:]) != version|flagReply {
		v.t.Fatalf("answer to %d: % x", request, head)
	}
	answer := make([]byte, le.Uint32(head[8:]))
	if _, err := io.ReadFull(v.conn, answer); err != nil {
		return nil
	}
	return answer
}

func words(list ...any) (b []byte) {
	for _, w := range list {
		switch w := w.(type) {
		case int:
			b = binary.LittleEndian.AppendUint32(b, uint32(w))
		case uint64:
			b = binary.LittleEndian.AppendUint64(b, w)
		}
	}
	return b
}

// region describes the whole memory.
func wholeMemory() []byte {
	return words(1, 0, uint64(base), uint64(memSize), uint64(base), uint64(0))
}

// start makes the three queues and fills that to the guest with buffers.
func (v *vmm) start() {
	v.t.Helper()
	v.must(v.say(setFeatures, words(uint64(features))))
	v.must(v.say(setMemory, wholeMemory(), v.file))
	for i := range v.rings {
		v.must(v.prepare(i))
	}
	for i := range v.rings {
		v.must(v.say(setEnabled, words(i, 1)))
	}
	for n := range ringSize {
		v.offer(rxQueue, n, bufSize, flagWrite)
	}
	v.rings[rxQueue].ring(v.t)
}

func (v *vmm) must(answer []byte) {
	v.t.Helper()
	if answer == nil {
		v.t.Fatalf("the device hung up: %v", <-v.ended)
	}
}

// prepare describes a queue, up to its files.
func (v *vmm) prepare(i int) []byte {
	at := ringAt(i)
	r := &v.rings[i]
	r.desc, r.avail, r.used = v.mem[at:], v.mem[at+1024:], v.mem[at+2048:]
	clear(v.mem[at : at+4096])
	event, err := unix.Eventfd(0, 0)
	if err != nil {
		v.t.Fatal(err)
	}
	r.kick, r.next, r.seen = os.NewFile(uintptr(event), "kick"), 0, 0
	var called *os.File
	if r.call, called, err = os.Pipe(); err != nil {
		v.t.Fatal(err)
	}
	defer called.Close()
	v.say(setSize, words(i, ringSize))
	v.say(setBase, words(i, 0))
	v.say(setAddresses, words(i, 0, uint64(base+at), uint64(base+at+2048), uint64(base+at+1024), uint64(0)))
	v.say(setCall, words(uint64(i)), called)
	return v.say(setKick, words(uint64(i)), r.kick)
}

// offer makes a buffer available.
func (v *vmm) offer(queue, n, size int, flags uint16) {
	r := &v.rings[queue]
	d := r.desc[descSize*n:]
	binary.LittleEndian.PutUint64(d, uint64(base+bufferAt(queue, n)))
	binary.LittleEndian.PutUint32(d[8:], uint32(size))
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(r.avail[4+2*int(r.next%ringSize):], uint16(n))
	r.next++
	atomic.StoreUint32(word(r.avail), uint32(r.next)<<16)
}

// ring tells the device.
func (r *driverRing) ring(t *testing.T) {
	t.Helper()
	if _, err := r.kick.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Error(err)
	}
}

// send sends a packet to the host.
func (v *vmm) send(h header, data []byte) {
	v.t.Helper()
	r := &v.rings[txQueue]
	n := int(r.next % ringSize)
	at := v.mem[bufferAt(txQueue, n):][:bufSize]
	copy(at, guestHeader(h))
	copy(at[headerSize:], data)
	v.offer(txQueue, n, headerSize+len(data), 0)
	r.ring(v.t)
	v.await(r)
}

// guestHeader encodes a packet as a guest does.
func guestHeader(h header) []byte {
	b := header{guest: h.host, host: h.guest, size: h.size, kind: h.kind, op: h.op, flags: h.flags, window: h.window, read: h.read}.toGuest()
	binary.LittleEndian.PutUint64(b[:], guestCID)
	binary.LittleEndian.PutUint64(b[8:], hostCID)
	return b[:]
}

// await waits until the device has given back a buffer, and returns its number and size.
func (v *vmm) await(r *driverRing) (n, size int) {
	v.t.Helper()
	for uint16(atomic.LoadUint32(word(r.used))>>16) == r.seen {
		_ = r.call.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := r.call.Read(make([]byte, 8)); err != nil {
			v.t.Fatalf("the device doesn't give a buffer back: %v", err)
		}
	}
	at := r.used[4+usedSize*int(r.seen%ringSize):]
	r.seen++
	return int(binary.LittleEndian.Uint32(at)), int(binary.LittleEndian.Uint32(at[4:]))
}

// receive returns the next packet to the guest.
func (v *vmm) receive() (header, []byte) {
	v.t.Helper()
	r := &v.rings[rxQueue]
	n, size := v.await(r)
	b := v.mem[bufferAt(rxQueue, n):][:size]
	le := binary.LittleEndian
	if le.Uint64(b) != hostCID || le.Uint64(b[8:]) != guestCID {
		v.t.Fatalf("a packet from %d to %d", le.Uint64(b), le.Uint64(b[8:]))
	}
	h := header{host: le.Uint32(b[16:]), guest: le.Uint32(b[20:]), size: le.Uint32(b[24:]), kind: le.Uint16(b[28:]), op: le.Uint16(b[30:]), flags: le.Uint32(b[32:]), window: le.Uint32(b[36:]), read: le.Uint32(b[40:])}
	data := append([]byte(nil), b[headerSize:]...)
	v.offer(rxQueue, n, bufSize, flagWrite)
	r.ring(v.t)
	return h, data
}

// dial connects a program of the host, which has said where to.
func (v *vmm) dial(port int) net.Conn {
	v.t.Helper()
	c, err := net.Dial("unix", v.host)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = c.Close() })
	fmt.Fprintf(c, "CONNECT %d\n", port)
	return c
}

// join connects a program of the host to the guest's port 512, and returns it with what the
// guest answers with.
func (v *vmm) join(window uint32) (net.Conn, header) {
	v.t.Helper()
	c := v.dial(512)
	h, _ := v.receive()
	if h.op != opRequest || h.guest != 512 || h.kind != typeStream {
		v.t.Fatalf("a connection begins with %+v", h)
	}
	h = header{guest: h.guest, host: h.host, kind: typeStream, op: opResponse, window: window}
	v.send(h, nil)
	line, err := bufio.NewReaderSize(&single{c}, 16).ReadString('\n')
	if want := fmt.Sprintf("OK %d\n", h.host); err != nil || line != want {
		v.t.Fatalf("the program is told %q, %v", line, err)
	}
	h.op = opData
	return c, h
}

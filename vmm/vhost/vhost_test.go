package vhost

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Much goes both ways, and each side sends no more than the other has room for.
func TestBothWays(t *testing.T) {
	v := newVMM(t)
	v.start()
	c, h := v.join(40_000)
	defer c.Close()
	out := random(2 << 20)
	wrote := make(chan error, 1)
	go func() { _, err := c.Write(out); wrote <- err }()
	var got []byte
	told := 0 // how much the host knows that the guest has read
	for len(got) < len(out) {
		p, data := v.receive()
		if p.op != opData || p.guest != h.guest || p.host != h.host {
			t.Fatalf("a packet %+v", p)
		}
		got = append(got, data...)
		if len(got)-told > int(h.window) {
			t.Fatalf("%d bytes came without room", len(got)-told)
		}
		if len(got)-told > 20_000 {
			told = len(got)
			h.read, h.op, h.size = uint32(told), opCredit, 0
			v.send(h, nil)
		}
	}
	if err := <-wrote; err != nil || !bytes.Equal(got, out) {
		t.Fatalf("the guest got %d bytes, %v", len(got), err)
	}

	in := random(2 << 20)
	back := make(chan []byte, 1)
	go func() { b := make([]byte, len(in)); _, _ = io.ReadFull(c, b); back <- b }()
	room := window
	for at := 0; at < len(in); {
		n := min(len(in)-at, 3000, room)
		if n == 0 {
			p, _ := v.receive()
			if p.op != opCredit {
				t.Fatalf("a packet %+v", p)
			}
			room = int(p.window - (uint32(at) - p.read))
			continue
		}
		h.op, h.size = opData, uint32(n)
		v.send(h, in[at:at+n])
		at, room = at+n, room-n
	}
	if got := <-back; !bytes.Equal(got, in) {
		t.Error("the host got something else")
	}
}

func TestConfiguration(t *testing.T) {
	v := newVMM(t)
	answer := v.say(getConfig, append(words(0, 8, 0), make([]byte, 8)...))
	if len(answer) != configHeader+8 || binary.LittleEndian.Uint64(answer[configHeader:]) != guestCID {
		t.Errorf("the guest's address is % x", answer)
	}
	for request, want := range map[uint32]uint64{getFeatures: features, getProtocol: protocol} {
		if answer := v.say(request, nil); len(answer) != 8 || binary.LittleEndian.Uint64(answer) != want {
			t.Errorf("answer to %d: % x", request, answer)
		}
	}
}

// The ends of a connection: the host's, the guest's with and without a word, a refusal, and
// silence.
func TestEnds(t *testing.T) {
	v := newVMM(t)
	v.start()
	c, h := v.join(1000)
	_ = c.Close()
	if p, _ := v.receive(); p.op != opReset || p.host != h.host {
		t.Errorf("the host's end is %+v to the guest", p)
	}
	for _, flags := range []uint32{noReceive | noSend, 0} {
		c, h = v.join(1000)
		h.size = 5
		v.send(h, []byte("hello"))
		h.size, h.op, h.flags = 0, opShutdown, flags
		if flags == 0 {
			h.op = opReset
		}
		v.send(h, nil)
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("flags %d: before the guest's end the host got %q, %v", flags, got, err)
		}
		if p, _ := v.receive(); p.op != opReset {
			t.Errorf("flags %d: then the guest got %+v", flags, p)
		}
	}
	c = v.dial(9)
	p, _ := v.receive()
	v.send(header{guest: 9, host: p.host, kind: typeStream, op: opReset}, nil)
	if got, err := io.ReadAll(c); len(got) > 0 || err != nil {
		t.Errorf("a refused connection: %q, %v", got, err)
	}
	c = v.dial(10)
	v.receive()
	if got, err := io.ReadAll(c); len(got) > 0 || err != nil {
		t.Errorf("a connection without an answer: %q, %v", got, err)
	}
	v.device.mu.Lock()
	defer v.device.mu.Unlock()
	if n := len(v.device.streams); n > 0 {
		t.Errorf("%d streams are left", n)
	}
}

// A program that comes before the guest's driver waits for it.
func TestEarly(t *testing.T) {
	v := newVMM(t)
	c := v.dial(512)
	v.start()
	p, _ := v.receive()
	if p.op != opRequest {
		t.Errorf("got %+v", p)
	}
	// The driver may be unloaded, and loaded again.
	for i := range v.rings {
		v.must(v.say(setEnabled, words(i, 0)))
	}
	if got, err := io.ReadAll(c); len(got) > 0 || err != nil {
		t.Errorf("when the driver had gone: %q, %v", got, err)
	}
	v.start()
	c, _ = v.join(1000)
	_ = c.Close()
}

// What a program of the host says must be a port.
func TestNonsense(t *testing.T) {
	v := newVMM(t)
	v.start()
	for _, line := range []string{"", "\n", "CONNECT\n", "CONNECT x\n", "GET / HTTP/1.1\n", strings.Repeat("C", 100), "CONNECT 4294967296\n"} {
		c, err := net.Dial("unix", v.host)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, line)
		_ = c.(*net.UnixConn).CloseWrite()
		if got, err := io.ReadAll(c); len(got) > 0 && err == nil {
			t.Errorf("%q: %q", line, got)
		}
		_ = c.Close()
	}
}

// A guest may send more than it has room for, or about streams that aren't its: then it loses
// these, and nothing else.
func TestWrongStream(t *testing.T) {
	v := newVMM(t)
	v.start()
	good, h := v.join(1000)
	_, bad := v.join(1000)
	sent := 0
	for range window/4000 + 2 {
		bad.size = 4000
		v.send(bad, make([]byte, 4000))
		sent += 4000
	}
	wantReset := func(of header) {
		t.Helper()
		for {
			p, _ := v.receive()
			if p.op == opCredit {
				continue
			}
			if p.op != opReset || p.host != of.host || p.guest != of.guest {
				t.Fatalf("the guest got %+v", p)
			}
			return
		}
	}
	// Nobody reads: the socket takes some, the window the rest, and then it is too much.
	for range 200 {
		v.device.mu.Lock()
		gone := v.device.streams[bad.host] == nil
		v.device.mu.Unlock()
		if gone {
			break
		}
		v.send(bad, make([]byte, 4000))
	}
	wantReset(bad)
	for _, p := range []header{
		{guest: 1, host: 2, kind: typeStream, op: opRequest},
		{guest: h.guest + 1, host: h.host, kind: typeStream, op: opData},
		{guest: 7, host: 8, kind: 9, op: opData},
	} {
		v.send(p, nil)
		wantReset(p)
	}
	v.send(header{guest: 1, host: 2, kind: typeStream, op: opReset}, nil) // is not answered
	h.size = 4
	v.send(h, []byte("fine"))
	got := make([]byte, 4)
	if _, err := io.ReadFull(good, got); err != nil || string(got) != "fine" {
		t.Errorf("the other stream: %q, %v", got, err)
	}
}

// A guest that gives no room for answers isn't heard, and makes its host hold no more.
func TestNoRoom(t *testing.T) {
	v := newVMM(t)
	v.start()
	r := &v.rings[txQueue]
	copy(v.mem[bufferAt(txQueue, 0):], guestHeader(header{guest: 1, host: 2, kind: typeStream, op: opRequest}))
	asked := 0
	for asked < ringSize+maxReplies+100 {
		if uint16(r.next-r.seen) == ringSize {
			_ = r.call.SetReadDeadline(time.Now().Add(time.Second / 2))
			if _, err := r.call.Read(make([]byte, 8)); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			for r.seen != uint16(word32(r.used)>>16) {
				r.seen++
			}
			continue
		}
		v.offer(txQueue, 0, headerSize, 0)
		asked++
		r.ring(t)
	}
	v.device.mu.Lock()
	waiting := len(v.device.replies)
	v.device.mu.Unlock()
	if waiting > maxReplies+1 || waiting < maxReplies {
		t.Errorf("%d answers wait", waiting)
	}
	for range waiting { // with room again, it is heard again
		if p, _ := v.receive(); p.op != opReset {
			t.Fatalf("an answer %+v", p)
		}
	}
}

func word32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// Whoever breaks a rule of the queues or of the protocol loses the device.
func TestBreakRules(t *testing.T) {
	le := binary.LittleEndian
	ring := func(v *vmm) { v.rings[txQueue].ring(v.t) }
	desc := func(f func(d []byte)) func(*vmm) {
		return func(v *vmm) {
			v.offer(txQueue, 0, headerSize, 0)
			f(v.rings[txQueue].desc)
			ring(v)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = null.Close() })
	for name, c := range map[string]struct {
		do   func(v *vmm)
		want string
	}{
		"an index too far": {func(v *vmm) { le.PutUint16(v.rings[txQueue].avail[2:], ringSize+1); ring(v) }, "17 chains in a queue of 16"},
		"no such descriptor": {func(v *vmm) {
			v.rings[txQueue].avail[4] = ringSize
			le.PutUint16(v.rings[txQueue].avail[2:], 1)
			ring(v)
		}, "descriptor 16 of 16"},
		"no such next":          {desc(func(d []byte) { d[12], d[14] = flagNext, 200 }), "descriptor 200 of 16"},
		"a loop":                {desc(func(d []byte) { d[12], d[14] = flagNext, 0 }), "without an end"},
		"an unknown flag":       {desc(func(d []byte) { d[12] = 4 }), "descriptor flags 0x4"},
		"read after write":      {desc(func(d []byte) { d[12], d[14] = flagNext|flagWrite, 1; le.PutUint64(d[16:], base) }), "to read after one to write"},
		"below the memory":      {desc(func(d []byte) { le.PutUint64(d, base-1) }), "aren't in the guest's memory"},
		"beyond the memory":     {desc(func(d []byte) { le.PutUint64(d, base+memSize-headerSize+1) }), "aren't in the guest's memory"},
		"an address that wraps": {desc(func(d []byte) { le.PutUint64(d, 1<<64-8) }), "aren't in the guest's memory"},
		"half a header":         {desc(func(d []byte) { d[8] = headerSize - 1 }), "a packet of 43 bytes"},
		"data that isn't there": {func(v *vmm) {
			b := guestHeader(header{op: opData, size: 1 << 31})
			copy(v.mem[bufferAt(txQueue, 0):], b)
			v.offer(txQueue, 0, headerSize, 0)
			ring(v)
		}, "says that it has 2147483648 bytes"},
		"a buffer for no packet": {func(v *vmm) { le.PutUint32(v.rings[rxQueue].desc[8:], headerSize-1); v.dial(1) }, "a buffer of 43 bytes for a packet"},
		"no operation": {func(v *vmm) {
			_, h := v.join(1)
			h.op = 77
			copy(v.mem[bufferAt(txQueue, 1):], guestHeader(h))
			v.offer(txQueue, 1, headerSize, 0)
			ring(v)
		}, "none of a stream's"},
		"memory that is gone": {func(v *vmm) {
			copy(v.mem[bufferAt(txQueue, 0):], guestHeader(header{}))
			v.offer(txQueue, 0, headerSize, 0)
			_ = v.file.Truncate(4096 * 3)
			ring(v)
		}, errFault.Error()},
		"an event that ends": {func(v *vmm) {
			v.say(setEnabled, words(2, 0))
			v.say(setKick, words(uint64(2)), null)
			v.say(setCall, words(uint64(2)), null)
			v.say(setEnabled, words(2, 1))
		}, "a queue's event"},
		"a queue changed":         {func(v *vmm) { v.say(setSize, words(0, 8)) }, "changes that is in use"},
		"memory changed":          {func(v *vmm) { v.say(setMemory, wholeMemory(), v.file) }, "memory changes below a queue"},
		"unknown features":        {func(v *vmm) { v.say(setFeatures, words(uint64(1))) }, "features 0x1"},
		"an unknown message":      {func(v *vmm) { v.say(99, nil) }, "message 99: isn't known"},
		"a large message":         {func(v *vmm) { v.say(setOwner, make([]byte, maxPayload+1)) }, "and 513 bytes"},
		"a queue too many":        {func(v *vmm) { v.say(setSize, words(queues, 8)) }, "queue 3"},
		"more files":              {func(v *vmm) { v.say(setMemory, words(1, 0), v.file, v.file) }, "1 regions in 2 files"},
		"the configuration's end": {func(v *vmm) { v.say(getConfig, append(words(4, 8, 0), make([]byte, 8)...)) }, "8 bytes at 4"},
		"half a question":         {func(v *vmm) { v.say(getConfig, words(4)) }, "too short"},
		"the VMM's end":           {func(v *vmm) { _ = v.conn.Close() }, ErrEnded.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVMM(t)
			v.start()
			c.do(v)
			err := <-v.ended
			v.ended <- err
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it ended with %v, want %q", err, c.want)
			}
		})
	}
}

// Before its queues run, a VMM describes them, and may lie.
func TestBadDescriptions(t *testing.T) {
	at := func(desc, used, avail int) []byte {
		return words(0, 0, uint64(base+desc), uint64(base+used), uint64(base+avail), uint64(0))
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for name, c := range map[string]struct {
		do   func(v *vmm)
		want string
	}{
		"no power of two":  {func(v *vmm) { v.say(setSize, words(0, 12)) }, "a queue of 12 descriptors"},
		"too large":        {func(v *vmm) { v.say(setSize, words(0, maxQueue*2)) }, "a queue of 2048 descriptors"},
		"empty":            {func(v *vmm) { v.say(setSize, words(0, 0)) }, "a queue of 0 descriptors"},
		"outside":          {func(v *vmm) { v.say(setAddresses, at(memSize-8, 2048, 1024)) }, "aren't in the guest's memory"},
		"odd":              {func(v *vmm) { v.say(setAddresses, at(0, 2049, 1024)) }, "odd address"},
		"without a file":   {func(v *vmm) { shut(&v.rings[0].kick); v.say(setKick, words(uint64(0))) }, "0 files"},
		"memory of a pipe": {func(v *vmm) { v.say(setMemory, wholeMemory(), r) }, "as memory"},
		"memory beyond the file": {func(v *vmm) {
			v.say(setMemory, words(1, 0, uint64(base), uint64(memSize), uint64(base), uint64(4096)), v.file)
		}, "as memory"},
		"memory that wraps": {func(v *vmm) {
			v.say(setMemory, words(1, 0, uint64(1<<64-4096), uint64(memSize), uint64(0), uint64(0)), v.file)
		}, "as memory"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVMM(t)
			v.must(v.say(setMemory, wholeMemory(), v.file))
			v.must(v.prepare(0))
			c.do(v)
			v.say(setEnabled, words(0, 1))
			err := <-v.ended
			v.ended <- err
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("it ended with %v, want %q", err, c.want)
			}
		})
	}
	v := newVMM(t)
	v.say(setEnabled, words(0, 1))
	if err := <-v.ended; err == nil || !strings.Contains(err.Error(), "without its files") {
		t.Errorf("a queue that was never described: %v", err)
	} else {
		v.ended <- err
	}
}

// More files than any message has aren't kept.
func TestManyFiles(t *testing.T) {
	v := newVMM(t)
	files := make([]*os.File, maxRegions+5)
	for i := range files {
		files[i] = v.file
	}
	v.say(setMemory, wholeMemory(), files...)
	err := <-v.ended
	v.ended <- err
	if err == nil || !strings.Contains(err.Error(), "more files") {
		t.Errorf("it ended with %v", err)
	}
}

// A guest has only so many connections.
func TestBound(t *testing.T) {
	v := newVMM(t)
	for range maxStreams {
		v.dial(1)
	}
	// Only the driver's start answers them: until then all are held.
	for {
		v.device.mu.Lock()
		n := len(v.device.streams)
		v.device.mu.Unlock()
		if n == maxStreams {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c := v.dial(1)
	if got, err := io.ReadAll(c); len(got) > 0 || err != nil {
		t.Errorf("one more: %q, %v", got, err)
	}
}

// Whatever the guest has in its memory, the device stays within it, and ends.
func FuzzQueue(f *testing.F) {
	f.Add(uint16(1), []byte{0, 0, 0, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, index uint16, content []byte) {
		mem := make([]byte, 8192)
		data, err := unix.Mmap(-1, 0, len(mem), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Munmap(data) }()
		copy(data, content)
		q, err := newQueue(memory{{guest: 0, data: data}}, 8, 0, 128, 256, 0)
		if err != nil {
			t.Fatal(err)
		}
		binary.LittleEndian.PutUint16(q.avail[2:], index)
		d := New()
		d.rx, d.tx = q, q
		d.streams[3] = &stream{guest: 2, host: 3, conn: discard{}}
		for range 8 {
			c, ok, err := q.take()
			if err != nil || !ok {
				return
			}
			if err := d.hear(c); err != nil {
				return
			}
			if err := d.flush(); err != nil {
				return
			}
			for _, s := range d.streams {
				if s.buffered < 0 || s.buffered > window || s.buffered > 0 && len(s.ring) != window {
					t.Fatalf("%d bytes are buffered", s.buffered)
				}
			}
		}
	})
}

// Whatever a VMM says, the device gives everything back.
func FuzzMessages(f *testing.F) {
	le := binary.LittleEndian
	for _, request := range []uint32{getFeatures, setMemory, setSize, setAddresses, setKick, setEnabled, getConfig} {
		f.Add(append(le.AppendUint32(le.AppendUint32(le.AppendUint32(nil, request), version), 8), 1, 0, 0, 0, 0, 0, 0, 0))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
		c, err := net.FileConn(theirs)
		_ = theirs.Close()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, ours) }()
		if _, err := ours.Write(text); err != nil {
			t.Fatal(err)
		}
		_ = unix.Shutdown(fds[0], unix.SHUT_WR)
		if err := New().serve(c.(*net.UnixConn)); err == nil {
			t.Error("it ended without a reason")
		}
		_ = ours.Close()
	})
}

type discard struct{ net.Conn }

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }

// A guest is interrupted once for all buffers that the host has filled for it, and has all of
// them then.
func TestOneInterrupt(t *testing.T) {
	v := newVMM(t)
	v.start()
	c, _ := v.join(1 << 20)
	r := &v.rings[rxQueue]
	const buffers = ringSize - 2
	bulk := random(buffers * (bufSize - headerSize))
	first := r.seen
	if _, err := c.Write(bulk); err != nil {
		t.Fatal(err)
	}
	count := make([]byte, 8)
	interrupts := uint64(0)
	for uint16(word32(r.used)>>16)-first < buffers {
		_ = r.call.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := r.call.Read(count); err != nil {
			t.Fatalf("%d of %d buffers were filled: %v", uint16(word32(r.used)>>16)-first, buffers, err)
		}
		interrupts += binary.LittleEndian.Uint64(count)
	}
	if interrupts > 2 { // two, if the host's bytes came in two pieces
		t.Errorf("%d interrupts for %d buffers", interrupts, buffers)
	}
	var got []byte
	for range buffers {
		_, data := v.receive()
		got = append(got, data...)
	}
	if !bytes.Equal(got, bulk) {
		t.Error("other bytes came")
	}
}

package shim_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

var backgroundContext = context.Background()

// objectSize is the size of what the fake guest gives and takes by offset.
const objectSize = 2 << 20

// pattern is the bytes at an offset of a numbered object.
func pattern(object uint32, b []byte, off int64) {
	for i := range b {
		x := ((uint64(off) + uint64(i)) ^ uint64(object)<<32) * 0x9e3779b97f4a7c15
		b[i] = byte(x >> 56)
	}
}

func serveDownload(c net.Conn, object uint32, off int64) {
	for buf := make([]byte, 10_000); off < objectSize; {
		b := buf[:min(int64(len(buf)), objectSize-off)]
		pattern(object, b, off)
		if _, err := c.Write(b); err != nil {
			return
		}
		off += int64(len(b))
	}
}

type upload struct {
	mu  sync.Mutex
	got []byte
}

func serveUpload(c net.Conn, u *upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c.Write(binary.BigEndian.AppendUint64(nil, uint64(len(u.got))))
	buf := make([]byte, 10_000)
	for len(u.got) < objectSize {
		n, err := c.Read(buf)
		u.got = append(u.got, buf[:n]...)
		if err != nil {
			return
		}
	}
	sum := sha256.Sum256(u.got)
	c.Write(sum[:])
}

// download goes on with an object and returns the offset it came to. An error
// is a wrong byte; a stream that broke is none.
func download(c net.Conn, object uint32, off int64, moved func(int)) (int64, error) {
	head := binary.BigEndian.AppendUint32([]byte{'d'}, object)
	if _, err := c.Write(binary.BigEndian.AppendUint64(head, uint64(off))); err != nil {
		return off, nil
	}
	got, want := make([]byte, 9_000), make([]byte, 9_000)
	for {
		n, err := c.Read(got)
		pattern(object, want[:n], off)
		if !bytes.Equal(got[:n], want[:n]) {
			return off, errors.New("a byte that doesn't belong there")
		}
		off += int64(n)
		moved(n)
		if err != nil {
			return off, nil
		}
	}
}

// send goes on with an upload; it reports whether the guest has all of it.
func send(c net.Conn, object uint32, moved func(int)) (bool, error) {
	head := binary.BigEndian.AppendUint32([]byte{'u'}, object)
	c.Write(binary.BigEndian.AppendUint64(head, 0))
	var at [8]byte
	if _, err := io.ReadFull(c, at[:]); err != nil {
		return false, nil
	}
	off := binary.BigEndian.Uint64(at[:])
	if off > objectSize {
		return false, errors.New("the guest holds more than was sent")
	}
	all := make([]byte, objectSize)
	pattern(object, all, 0)
	for rest := all[off:]; len(rest) > 0; {
		n, err := c.Write(rest[:min(len(rest), 9_000)])
		if err != nil {
			return false, nil
		}
		rest = rest[n:]
		moved(n)
	}
	var sum [32]byte
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		return false, nil
	}
	if sum != sha256.Sum256(all) {
		return false, errors.New("the guest holds other bytes")
	}
	return true, nil
}

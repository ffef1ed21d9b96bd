package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// What follows is as much of the NBD protocol as QEMU's client needs: one export
// without a name, simple replies. Neither FUA nor trimming is offered, so the client
// flushes after a write that must last, and writes zeros.
const (
	nbdMagic      = 0x4e42444d41474943 // "NBDMAGIC"
	nbdOption     = 0x49484156454f5054 // "IHAVEOPT"
	nbdOptReply   = 0x3e889045565a9
	nbdRequest    = 0x25609513
	nbdReply      = 0x67446698
	nbdHandshake  = 1 | 2 // fixed newstyle, no zeroes
	nbdOptAbort   = 2
	nbdOptGo      = 7
	nbdAck        = 1
	nbdInfo       = 3
	nbdUnknown    = 1<<31 | 1
	nbdInfoExport = 0
	nbdInfoBlocks = 3
	nbdFlags      = 1 | 4   // there are flags, and a flush
	nbdLongest    = 1 << 25 // bytes of a request, as the client is told
)

const (
	nbdRead = iota
	nbdWrite
	nbdLeave
	nbdFlush
)

// serve answers a client's requests, one after the other, until it leaves or dies.
func (d *drive) serve(conn net.Conn) error {
	size, err := d.size()
	if err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	err = greet(in, conn, size)
	for more := true; more && err == nil; {
		more, err = d.answer(in, conn, size)
	}
	for _, gone := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, gone) {
			return nil // a machine that was killed says no goodbye
		}
	}
	if err != nil {
		return fmt.Errorf("serve the drive: %w", err)
	}
	return nil
}

// greet agrees with the client on the export.
func greet(in io.Reader, out io.Writer, size int64) error {
	hello := binary.BigEndian.AppendUint64(nil, nbdMagic)
	hello = binary.BigEndian.AppendUint64(hello, nbdOption)
	if _, err := out.Write(binary.BigEndian.AppendUint16(hello, nbdHandshake)); err != nil {
		return err
	}
	var flags uint32
	if err := binary.Read(in, binary.BigEndian, &flags); err != nil {
		return err
	}
	for {
		var o struct {
			Magic       uint64
			Option, Len uint32
		}
		if err := binary.Read(in, binary.BigEndian, &o); err != nil {
			return err
		}
		if o.Magic != nbdOption || o.Len > nbdLongest {
			return fmt.Errorf("no option: %+v", o)
		}
		if _, err := io.CopyN(io.Discard, in, int64(o.Len)); err != nil {
			return err
		}
		var err error
		switch o.Option {
		case nbdOptAbort:
			return errors.New("the client wants nothing")
		case nbdOptGo:
			return offer(out, size)
		default:
			err = option(out, o.Option, nbdUnknown, nil)
		}
		if err != nil {
			return err
		}
	}
}

// offer tells the client what it gets.
func offer(out io.Writer, size int64) error {
	export := binary.BigEndian.AppendUint16(nil, nbdInfoExport)
	export = binary.BigEndian.AppendUint64(export, uint64(size))
	export = binary.BigEndian.AppendUint16(export, nbdFlags)
	blocks := binary.BigEndian.AppendUint16(nil, nbdInfoBlocks)
	for _, n := range []uint32{512, sector, nbdLongest} { // smallest, best, longest
		blocks = binary.BigEndian.AppendUint32(blocks, n)
	}
	return errors.Join(option(out, nbdOptGo, nbdInfo, export), option(out, nbdOptGo, nbdInfo, blocks), option(out, nbdOptGo, nbdAck, nil))
}

func option(out io.Writer, opt, reply uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, nbdOptReply)
	for _, n := range []uint32{opt, reply, uint32(len(data))} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	_, err := out.Write(append(b, data...))
	return err
}

// answer does one request. There are no more once the client leaves.
func (d *drive) answer(in io.Reader, out io.Writer, size int64) (more bool, err error) {
	var r struct {
		Magic       uint32
		Flags, Type uint16
		Handle, At  uint64
		Len         uint32
	}
	if err := binary.Read(in, binary.BigEndian, &r); err != nil {
		return true, err
	}
	if r.Magic != nbdRequest || r.Type == nbdWrite && r.Len > nbdLongest {
		return true, fmt.Errorf("no request: %+v", r)
	}
	var data []byte
	if r.Type == nbdWrite {
		data = make([]byte, r.Len)
		if _, err := io.ReadFull(in, data); err != nil {
			return true, err
		}
	}
	inside := r.Len <= nbdLongest && r.At <= uint64(size) && uint64(r.Len) <= uint64(size)-r.At
	var read []byte
	switch {
	case r.Type == nbdLeave:
		return false, nil
	case r.Type == nbdFlush:
		d.flush()
	case r.Type == nbdWrite && inside:
		err = d.write(data, int64(r.At))
	case r.Type == nbdRead && inside:
		read = make([]byte, r.Len)
		_, err = d.file.ReadAt(read, int64(r.At))
	default:
		err = syscall.EINVAL
	}
	var code uint32
	if err != nil {
		read, code = nil, uint32(syscall.EIO)
		if errors.Is(err, syscall.EINVAL) {
			code = uint32(syscall.EINVAL)
		}
	}
	reply := binary.BigEndian.AppendUint32(nil, nbdReply)
	reply = binary.BigEndian.AppendUint32(reply, code)
	reply = binary.BigEndian.AppendUint64(reply, r.Handle)
	_, err = out.Write(append(reply, read...))
	return true, err
}

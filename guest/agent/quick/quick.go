// Package quick reads and writes files of which Go's scheduler isn't told.
//
// Go has as many places to run goroutines as there are processors. Its monitor gives a
// place to another thread when a system call has lasted for 20 µs, unless another place is
// free. In an emulated guest of one processor nearly each call lasts that long, so that each
// costs several switches of threads, and the monitor looks every 20 µs. A call that can't
// block needs none of that: here the monitor doesn't see it.
//
// It knows nothing of what is read or written.
package quick

import (
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File is an open file whose Read and Write are quick. All else is the os.File's.
type File struct {
	*os.File
	raw    syscall.RawConn // nil: the file may block, so it is read and written as usual
	taking atomic.Bool
}

// Taking reports whether a Read has taken bytes, or is about to, that Kept doesn't know of.
// It is false while Read waits for some, and always for a file that may block.
func (f *File) Taking() bool { return f.taking.Load() }

// Kept says that the bytes of the last Read are where others find them.
func (f *File) Kept() { f.taking.Store(false) }

// New wraps a file. Its calls are quick if it is non-blocking, as pipes, terminals and
// ports are when they are opened so.
func New(f *os.File) *File {
	raw, err := f.SyscallConn()
	if err != nil {
		return &File{File: f}
	}
	flags := 0
	cerr := raw.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0) })
	if cerr != nil || err != nil || flags&unix.O_NONBLOCK == 0 {
		return &File{File: f}
	}
	return &File{File: f, raw: raw}
}

// Read is that of an io.Reader. Its errors are system calls' numbers, io.EOF, or what
// os.File says of a file that is closed.
func (f *File) Read(b []byte) (n int, err error) {
	if f.raw == nil {
		return f.File.Read(b)
	}
	if len(b) == 0 {
		return 0, nil
	}
	cerr := f.raw.Read(func(fd uintptr) bool {
		f.taking.Store(true)
		if n, err = call(syscall.SYS_READ, fd, b); err == syscall.EAGAIN {
			f.taking.Store(false)
		}
		return err != syscall.EAGAIN
	})
	switch {
	case cerr != nil:
		return 0, cerr
	case n == 0 && err == nil:
		return 0, io.EOF
	}
	return n, err
}

// Write is that of an io.Writer. For its errors see Read.
func (f *File) Write(b []byte) (n int, err error) {
	if f.raw == nil {
		return f.File.Write(b)
	}
	for n < len(b) && err == nil {
		cerr := f.raw.Write(func(fd uintptr) bool {
			var k int
			k, err = call(syscall.SYS_WRITE, fd, b[n:])
			n += k
			return err != syscall.EAGAIN
		})
		if cerr != nil {
			err = cerr
		}
	}
	return n, err
}

// call makes a system call that reads or writes. It doesn't block, so a thread that makes it
// may keep its place.
func call(trap, fd uintptr, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

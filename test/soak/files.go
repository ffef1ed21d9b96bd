package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// do does it to the file at path, which is as f says, or a part of this was done to it
// before. When it returns, it is to last.
func (o op) do(path string, f *file) error {
	switch o.kind {
	case opDelete:
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
		return o.way.sync(nil, path)
	case opReplace:
		if err := o.write(path+".new", os.O_CREATE|os.O_TRUNC); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
		return o.way.sync(nil, path)
	case opCreate, opReserve:
		return o.write(path, os.O_CREATE|os.O_TRUNC)
	}
	return o.write(path, 0)
}

// write writes the span in chunks, each from memory that was never touched before, and syncs.
func (o op) write(path string, flags int) error {
	f, err := os.OpenFile(path, os.O_RDWR|flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if o.kind == opReserve {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, o.size); err != nil {
			return err
		}
	}
	s := span{o.from, o.to, o.gen}
	all := make([]byte, s.to-s.from)
	s.fill(all)
	for at := int64(0); at < int64(len(all)); at += o.chunk {
		part := all[at:min(at+o.chunk, int64(len(all)))]
		fresh, err := unix.Mmap(-1, 0, len(part), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		runtime.KeepAlive(fresh[0]) // read first: the kernel's one page of zeros stands there
		copy(fresh, part)
		_, err = f.WriteAt(fresh, s.from+at)
		if err := errors.Join(err, unix.Munmap(fresh)); err != nil {
			return err
		}
	}
	return o.way.sync(f, path)
}

// of makes a file last, and its name, or a name alone.
func (w way) sync(f *os.File, path string) error {
	if w == byAll {
		unix.Sync()
		return nil
	}
	if f != nil && w == byData {
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
	} else if f != nil {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// evict drops a file's pages from memory, as far as they are on the disk.
func evict(path string) {
	if f, err := os.Open(path); err == nil { // there may be none
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // advice
		_ = f.Close()
	}
}

// cat has a program write files to a pipe, and compares what comes out.
func cat(paths []string, want []byte) error {
	got, err := exec.Command("cat", paths...).Output()
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				return fmt.Errorf("cat says % x at %d, want % x", got[i:min(len(got), i+32)], i, want[i:min(len(want), i+32)])
			}
		}
		return fmt.Errorf("cat says %d bytes, want %d", len(got), len(want))
	}
	return nil
}

// shellMark has a shell read the numbers from first to last, and write and sync the
// next one.
func shellMark(dir string, first, last int) error {
	var names, want []string
	for n := first; n <= last; n++ {
		names, want = append(names, strconv.Itoa(n)), append(want, fmt.Sprintln(n))
	}
	script := fmt.Sprintf("cd %s; [ -z '%s' ] || cat %[2]s; echo %d >%[3]d && sync && rm -f ./%d", dir, strings.Join(names, " "), last+1, last-marks)
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil || string(out) != strings.Join(want, "") {
		return fmt.Errorf("the shell says %q, want %q: %w", out, strings.Join(want, ""), err)
	}
	return nil
}

// fitrim is FITRIM of linux/fs.h.
const fitrim = 0xc0185879

// trim discards what a file system has free, as fstrim(8) does.
func trim(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	all := struct{ start, length, least uint64 }{length: 1 << 62}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fitrim, uintptr(unsafe.Pointer(&all))); errno != 0 {
		return errno
	}
	return nil
}

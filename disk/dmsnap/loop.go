package dmsnap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
)

// loop is an open loop device that is on a file. It stays on that file while anybody has
// the device open.
type loop struct {
	*os.File
	rdev  uint64 // its device number
	info  unix.LoopInfo64
	label string
}

// on reports whether the loop is on this file, and on all of it (loop(4)).
func (l *loop) on(file *os.File) bool {
	st, err := stat(file)
	return err == nil && l.info.Device == st.Dev && l.info.Inode == st.Ino && l.info.Offset == 0 && l.info.Sizelimit == 0
}

func (l *loop) readOnly() bool { return l.info.Flags&unix.LO_FLAGS_READ_ONLY != 0 }

func stat(f *os.File) (st unix.Stat_t, err error) {
	err = unix.Fstat(int(f.Fd()), &st)
	return st, err
}

// bind puts a loop on a file. The kernel clears the loop when its last user closes it or
// dies.
func bind(file *os.File, readOnly bool, label string) (*loop, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "no loop devices: %w", err).
			WithHint("load the kernel's module: modprobe loop; or set disk_driver to file in config.toml")
	}
	defer control.Close()
	conf := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	if readOnly {
		conf.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(conf.Info.File_name[:len(conf.Info.File_name)-1], label)
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		mode := os.O_RDWR
		if readOnly {
			mode = os.O_RDONLY
		}
		f, err := os.OpenFile(path, mode, 0)
		if err != nil {
			return nil, fmt.Errorf("loop device: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(f.Fd()), &conf)
		if err == nil {
			return inspect(f)
		}
		_ = f.Close()
		if !errors.Is(err, unix.EBUSY) { // else somebody took this device first: try another
			return nil, fmt.Errorf("put %s on %s: %w", path, file.Name(), err)
		}
	}
}

// inspect reads which file an open loop is on; ENXIO (loop(4)) when it is on none.
func inspect(f *os.File) (*loop, error) {
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	st, serr := stat(f)
	if err = errors.Join(err, serr); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("loop device %s: %w", f.Name(), err)
	}
	label, _, _ := bytes.Cut(info.File_name[:], []byte{0})
	return &loop{File: f, rdev: st.Rdev, info: *info, label: string(label)}, nil
}

// loopAt opens the loop with a device number.
func loopAt(rdev uint64) (*loop, error) {
	to, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(rdev), unix.Minor(rdev)))
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join("/dev", filepath.Base(to)))
	if err != nil {
		return nil, err
	}
	return inspect(f)
}

// loops calls each for every loop that is on a file, until it returns false. It then
// closes the loop, unless each has set File to nil to keep it open.
func loops(each func(*loop) bool) error {
	paths, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, p := range paths {
		f, err := os.Open(filepath.Join("/dev", strings.Split(p, "/")[3]))
		if err != nil {
			continue // removed meanwhile, or we may not open it
		}
		l, err := inspect(f)
		if errors.Is(err, unix.ENXIO) {
			continue // cleared meanwhile
		}
		if err != nil {
			return err
		}
		more := each(l)
		if l.File != nil {
			_ = l.Close()
		}
		if !more {
			return nil
		}
	}
	return nil
}

// backing returns the path of the file a loop is on, for messages: with " (deleted)" at
// its end when the file was deleted.
func backing(l *loop) string {
	b, _ := os.ReadFile(filepath.Join("/sys/block", filepath.Base(l.Name()), "loop/backing_file"))
	return strings.TrimSpace(string(b))
}

// shared returns the loop on the base, made if there is none.
func (d *Disks) shared(base *os.File) (got *loop, err error) {
	err = loops(func(l *loop) bool {
		if l.label != d.mark(baseID) || !l.readOnly() || !l.on(base) {
			return true
		}
		kept := *l
		got, l.File = &kept, nil
		return false
	})
	if got != nil || err != nil {
		return got, err
	}
	return bind(base, true, d.mark(baseID))
}

// others returns the paths of our loops for this VM, and of other loops on its file.
func (d *Disks) others(id string, cow *os.File) (ours, strangers []string, err error) {
	err = loops(func(l *loop) bool {
		switch {
		case l.label == d.mark(id):
			ours = append(ours, l.Name())
		case cow != nil && l.info.Device != 0:
			st, err := stat(cow)
			if err == nil && l.info.Device == st.Dev && l.info.Inode == st.Ino {
				strangers = append(strangers, l.Name())
			}
		}
		return true
	})
	return ours, strangers, err
}

package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"banger/guest"
)

// terminal returns v's file descriptor if it is a terminal.
func terminal(v any) (fd int, ok bool) {
	f, isFile := v.(*os.File)
	if !isFile {
		return -1, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}

// whileRead ends a context when nobody can read v any more (poll(2), POLLERR of a
// pipe). A command that follows something silent would notice only at its next write.
func whileRead(ctx context.Context, v any) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if f, isFile := v.(*os.File); isFile {
		fd := []unix.PollFd{{Fd: int32(f.Fd())}}
		go func() {
			for ctx.Err() == nil {
				if n, _ := unix.Poll(fd, 1000); n > 0 { // with no events asked for, it reports only errors and hangups
					cancel()
				}
			}
		}()
	}
	return ctx, cancel
}

// screen is the caller's terminal while it serves a guest's PTY.
type screen struct {
	fd     int
	old    *term.State
	resize chan guest.WinSize
	winch  chan os.Signal
}

// rawScreen hands every key to the guest, Ctrl-C too. restore ends it.
func rawScreen(in, out int) (*screen, error) {
	old, err := term.MakeRaw(in)
	if err != nil {
		return nil, err
	}
	s := &screen{fd: in, old: old, resize: make(chan guest.WinSize, 1), winch: make(chan os.Signal, 1)}
	signal.Notify(s.winch, syscall.SIGWINCH)
	go func() {
		defer close(s.resize)
		for range s.winch {
			size := sizeOf(out)
			select {
			case <-s.resize: // only the newest size counts
			default:
			}
			s.resize <- size
		}
	}()
	return s, nil
}

func (s *screen) restore() {
	signal.Stop(s.winch)
	close(s.winch)
	_ = term.Restore(s.fd, s.old)
}

// sizeOf returns a terminal's size, or the traditional one when it has none.
func sizeOf(fd int) guest.WinSize {
	cols, rows, err := term.GetSize(fd)
	if err != nil || cols <= 0 || rows <= 0 || cols > 1<<15 || rows > 1<<15 {
		return guest.WinSize{Rows: 24, Cols: 80}
	}
	return guest.WinSize{Rows: uint16(rows), Cols: uint16(cols)}
}

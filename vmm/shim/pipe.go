package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/host/hostfs"
)

// makePipes makes the FIFOs anew, without what an earlier VMM wrote to them.
func makePipes(pipes []Pipe) error {
	for _, p := range pipes {
		if err := hostfs.Remove(p.Name, p.Log, p.Log+".1"); err != nil {
			return err
		}
		if err := unix.Mkfifo(p.Name, 0o600); err != nil {
			return fmt.Errorf("make pipe %s: %w", p.Name, err)
		}
		if p.Owner != 0 {
			if err := os.Chown(p.Name, p.Owner, p.Owner); err != nil {
				return err
			}
		}
	}
	return nil
}

// openPipes opens the reading ends before there is a VMM: what is in a FIFO is lost when
// nobody has it open.
func openPipes(pipes []Pipe) ([]*os.File, error) {
	var files []*os.File
	for _, p := range pipes {
		// Without O_NONBLOCK this would wait for a writer (fifo(7)). O_NOFOLLOW, as a jailed
		// VMM may put a link in the pipe's place.
		f, err := os.OpenFile(p.Name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return files, err // the caller ends, or goes on without the pipes
		}
		if st, err := f.Stat(); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
			return files, errors.Join(fmt.Errorf("%s is no pipe", p.Name), err, f.Close())
		}
		files = append(files, f)
	}
	return files, nil
}

// readPipe keeps what the VMM writes to a pipe until ctx, the VMM's life, has ended
// and the pipe is empty.
func (s *shim) readPipe(ctx context.Context, p Pipe, f *os.File) {
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now().Add(drain)) })
	defer stop()
	log, done := s.keepLog(p.Log)
	defer done()
	l := &lines{found: s.heard}
	buf := make([]byte, 16<<10)
	for wait := connectPause; ; wait = min(wait*3/2, connectMax) {
		n, err := f.Read(buf)
		log(buf[:n])
		if p.Console {
			l.write(buf[:n])
		}
		if err == nil {
			continue
		}
		// An end of file: no VMM has it open, yet or any more.
		if err != io.EOF || !pause(ctx, wait) {
			return
		}
	}
}

// keepLog returns a function that appends to a bounded log. The VMM writes to its own log,
// too, so that one is bounded by boundVMMLog.
func (s *shim) keepLog(name string) (write func([]byte), done func()) {
	if name != VMMLog {
		log := &hostfs.Log{Path: name, Limit: s.cfg.LogLimit / 2}
		return log.Append, log.Close
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return func([]byte) {}, func() {}
	}
	return func(b []byte) { _, _ = f.Write(b) }, func() { _ = f.Close() } // what has no room is lost
}

// listens returns a channel that is closed when something listens on a socket of
// the VMM's.
func listens(ctx context.Context, path string) <-chan struct{} {
	up := make(chan struct{})
	go func() {
		if conn := connect(ctx, path); conn != nil {
			_ = conn.Close()
			close(up)
		}
	}()
	return up
}

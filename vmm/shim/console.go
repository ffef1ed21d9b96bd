package shim

import (
	"bytes"
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/guest"
	"banger/host/hostfs"
)

const (
	maxLine  = 1 << 10         // of a console line, the rest is only logged
	silence  = 3 * time.Second // for an agent's answer
	patience = 3               // so many answers in a row, or missing ones, are proof
)

// follow writes the console's log and looks for the kernel's last message.
func (s *shim) follow(ctx context.Context) {
	connected := sync.OnceFunc(func() { close(s.listening) })
	if s.cfg.Console == "" {
		connected()
		return
	}
	log := &hostfs.Log{Path: ConsoleFile, Limit: s.cfg.LogLimit / 2}
	defer log.Close()
	l := &lines{found: s.heard}
	buf := make([]byte, 16<<10)
	for {
		conn := connect(ctx, s.cfg.Console)
		if conn == nil {
			return
		}
		connected()
		// After the VMM's end, read its last bytes up to the end of file.
		stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now().Add(drain)) })
		for {
			n, err := conn.Read(buf)
			log.Append(buf[:n])
			l.write(buf[:n])
			if err != nil {
				break
			}
		}
		stop()
		_ = conn.Close()
		if !pause(ctx, connectPause) {
			return
		}
	}
}

// heard handles a console line.
func (s *shim) heard(line string) {
	if strings.TrimSpace(line) == guest.FrozenLine {
		s.channel.frozen()
	}
	kind := lastWord(line)
	if kind == "" {
		return
	}
	s.trace.mu.Lock()
	first := s.trace.seen.kind == ""
	s.trace.seen.kind, s.trace.seen.line = kind, line
	s.trace.mu.Unlock()
	if first {
		go s.expectEnd()
	}
}

// expectEnd ends a VMM whose guest has halted: it would run for ever. The console says so, but
// anybody in the guest can write that, so the agent must be silent, too. One missing answer
// proves nothing, as an agent may be busy, nor does one answer, as the agent may answer right
// before the end. If the guest's init has told of the end, too, one missing answer is enough.
func (s *shim) expectEnd() {
	client := &guest.Client{Dial: s.dialGuest}
	for silent, lives := 0, 0; lives < patience; {
		ctx, cancel := context.WithTimeout(context.Background(), silence)
		_, err := client.Health(ctx)
		cancel()
		if err != nil {
			silent, lives = silent+1, 0
		} else {
			silent, lives = 0, lives+1
		}
		s.trace.mu.Lock()
		told := s.trace.seen.verb != ""
		s.trace.mu.Unlock()
		if silent >= patience || silent > 0 && told {
			s.endVMM()
			return
		}
		select {
		case <-s.ended:
			return
		case <-time.After(silence / patience):
		}
	}
	s.trace.mu.Lock()
	s.trace.seen.kind, s.trace.seen.line = "", ""
	s.trace.mu.Unlock()
}

func (s *shim) dialGuest(ctx context.Context) (net.Conn, error) {
	stream, err := s.channel.open(ctx)
	if err != nil {
		return nil, err
	}
	return stream, nil
}

// watchGuest keeps a stream open on which the guest announces its end.
func (s *shim) watchGuest(ctx context.Context) {
	client := &guest.Client{Dial: s.dialGuest}
	for ctx.Err() == nil {
		// Not ctx: read what was sent before the VMM's end, until the channel ends.
		_ = client.Watch(context.Background(), func(n guest.Notice) {
			if _, known := verbs[n.Kind]; !known {
				return
			}
			s.trace.mu.Lock()
			s.trace.seen.verb = n.Kind
			s.trace.mu.Unlock()
		})
		// The stream ended: the agent was replaced, or is too old for this.
		pause(ctx, watchPause)
	}
}

// lines splits a console's output into lines, and cuts off the end of long ones.
type lines struct {
	found func(string)
	line  []byte
}

func (l *lines) write(b []byte) {
	for len(b) > 0 {
		text, rest, whole := bytes.Cut(b, []byte("\n"))
		l.line = append(l.line, text[:min(len(text), maxLine-len(l.line))]...)
		if whole {
			l.found(printable(string(l.line)))
			l.line = l.line[:0]
		}
		b = rest
	}
}

// boundVMMLog cuts the VMM's log when it gets too long. The VMM writes to the file itself, so
// that it doesn't depend on a shim that reads a pipe.
func boundVMMLog(ctx context.Context, limit int64) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	if _, err := unix.InotifyAddWatch(fd, VMMLog, unix.IN_MODIFY); err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4096)
	for {
		if st, err := os.Stat(VMMLog); err == nil && st.Size() > limit/2 {
			old := &hostfs.Log{Path: VMMLog + ".1", Limit: limit}
			_ = hostfs.Remove(old.Path)
			old.Append(tail(VMMLog, limit/2))
			old.Close()
			_ = os.Truncate(VMMLog, 0)
		}
		if _, err := f.Read(buf); err != nil {
			return
		}
	}
}

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
)

const (
	maxLine      = 1 << 10         // of a console line, the rest is only logged
	silence      = 3 * time.Second // an agent that doesn't answer for so long is dead
	silenceTries = 3               // an agent may answer in the instant between the last word and the end
)

// follow keeps the console's log and listens for the guest's last words.
func (s *shim) follow(ctx context.Context) {
	connected := sync.OnceFunc(func() { close(s.listening) })
	if s.cfg.Console == "" {
		connected()
		return
	}
	log := &boundedLog{path: ConsoleFile, limit: s.cfg.LogLimit / 2}
	defer log.close()
	l := &lines{found: s.heard}
	buf := make([]byte, 16<<10)
	for {
		conn := connect(ctx, s.cfg.Console)
		if conn == nil {
			return
		}
		connected()
		// A dead VMM's last bytes are still read, up to the end of file.
		stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now().Add(drain)) })
		for {
			n, err := conn.Read(buf)
			log.write(buf[:n])
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

// heard takes a console line.
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

// expectEnd ends a VMM whose guest has said its last word and whose agent is
// silent: a halted guest's VMM would linger for ever. If the agent lives, it was
// only somebody writing to the console.
func (s *shim) expectEnd() {
	client := &guest.Client{Dial: s.dialGuest}
	for try := range silenceTries {
		if try > 0 {
			time.Sleep(silence / silenceTries)
		}
		ctx, cancel := context.WithTimeout(context.Background(), silence)
		_, err := client.Health(ctx)
		cancel()
		select {
		case <-s.ended:
			return
		default:
		}
		if err != nil {
			s.endVMM()
			return
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

// watchGuest keeps one stream on which the guest tells of its end.
func (s *shim) watchGuest(ctx context.Context) {
	client := &guest.Client{Dial: s.dialGuest}
	for ctx.Err() == nil {
		// Not ctx: what was told before the VMM's end is still heard, until the
		// channel ends.
		_ = client.Watch(context.Background(), func(n guest.Notice) {
			if _, known := verbs[n.Kind]; !known {
				return
			}
			s.trace.mu.Lock()
			s.trace.seen.verb = n.Kind
			s.trace.mu.Unlock()
		})
		// It ends with its stream: the agent was replaced, or is too old for it.
		pause(ctx, watchPause)
	}
}

// lines cuts a console into lines. Overlong ones lose their end.
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

// boundedLog is a file and its older half.
type boundedLog struct {
	path  string
	limit int64
	f     *os.File
	size  int64
}

// write appends. What the disk has no room for is lost: a log must not stop a
// console.
func (l *boundedLog) write(b []byte) {
	if len(b) == 0 {
		return
	}
	if l.f != nil && l.size+int64(len(b)) > l.limit {
		l.close()
		_ = os.Rename(l.path, l.path+".1")
	}
	if l.f == nil {
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return
		}
		l.f = f
		if st, err := f.Stat(); err == nil {
			l.size = st.Size()
		}
	}
	n, _ := l.f.Write(b)
	l.size += int64(n)
}

func (l *boundedLog) close() {
	if l.f != nil {
		_ = l.f.Close()
		l.f = nil
	}
}

// boundVMMLog cuts the VMM's log when it has grown too long. The VMM writes the
// file itself, so that it never depends on a shim to read a pipe.
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
			old := &boundedLog{path: VMMLog + ".1", limit: limit}
			_ = removeAll(old.path)
			old.write(tail(VMMLog, limit/2))
			old.close()
			_ = os.Truncate(VMMLog, 0)
		}
		if _, err := f.Read(buf); err != nil {
			return
		}
	}
}

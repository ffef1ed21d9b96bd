package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/guest"
	"banger/guest/link"
	"banger/host/published"
)

const (
	maxRequest  = 16 << 10
	requestWait = 10 * time.Second // for a request line, for sending an answer, and for a stream's first bytes
	linger      = 10 * time.Second // for the guest to take the last bytes of a client that has gone
)

// wanted is the line a connection starts with.
type wanted struct {
	Op      string `json:"op"`                // "dial", "status", "wait", "halted", "release", "publish"
	Control bool   `json:"control,omitempty"` // of a dial: the stream is a control stream, see guest.IsControl
	// Of "publish": see banger.Publisher. When that is answered, the sockets of Held follow as
	// descriptors, and a second answer.
	Ports []banger.Published `json:"ports,omitempty"`
	Held  []banger.Published `json:"held,omitempty"`
}

// answer is the line that says whether a request succeeded; after a dial bytes follow.
type answer struct {
	Error string        `json:"error,omitempty"`
	Why   *banger.Error `json:"why,omitempty"` // of "publish": Error as a whole
}

// serve answers on the shim's socket until it is closed.
func (s *shim) serve(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(connectMax) // out of descriptors
			continue
		}
		s.serving.Add(1)
		go func() {
			defer s.serving.Done()
			defer conn.Close()
			s.answer(conn)
		}()
	}
}

func (s *shim) answer(conn *net.UnixConn) {
	_ = conn.SetReadDeadline(time.Now().Add(requestWait)) // a unix socket always can
	req, rest, err := readRequest(conn)
	_ = conn.SetReadDeadline(time.Time{})
	if err != nil {
		return
	}
	switch req.Op {
	case "dial":
		s.dial(conn, req, rest)
	case "status":
		say(conn, s.state())
	case "wait":
		gone, stop := hangUp(conn)
		defer stop()
		select {
		case <-s.settled:
			say(conn, s.exit)
		case <-gone:
		}
	case "halted":
		s.heard(haltedWord)
		say(conn, answer{})
	case "release":
		s.channel.released()
		gone, stop := hangUp(conn)
		defer stop()
		select {
		case <-s.channel.freezes:
			say(conn, answer{})
		case <-s.ended:
			say(conn, answer{Error: "the VMM has ended"})
		case <-gone:
		}
	case "publish":
		var a answer
		if err := s.publish(conn, req); err != nil {
			a = answer{Error: err.Error(), Why: banger.AsError(err)}
		}
		say(conn, a)
	default:
		say(conn, answer{Error: "unknown operation " + req.Op})
	}
}

// publish makes a request's ports the published ones, here and in the record for the next shim, or
// neither.
func (s *shim) publish(conn *net.UnixConn, req wanted) error {
	var held []banger.Socket
	if len(req.Held) > 0 {
		say(conn, answer{})
		var err error
		if held, err = published.Receive(conn, req.Held, time.Now().Add(requestWait)); err != nil {
			return err
		}
	}
	s.net.recording.Lock()
	defer s.net.recording.Unlock()
	if err := s.net.ports.Set(req.Ports, held); err != nil {
		return err
	}
	was := s.cfg.Ports
	s.cfg.Ports = req.Ports
	err := writeJSON(ConfigFile, s.cfg)
	if err != nil {
		s.cfg.Ports = was
		err = errors.Join(err, s.net.ports.Set(was, nil))
	}
	return err
}

// say writes one JSON line. It ignores errors: then the client has gone.
func say(conn net.Conn, v any) {
	_ = conn.SetWriteDeadline(time.Now().Add(requestWait))
	_ = json.NewEncoder(conn).Encode(v)
	_ = conn.SetWriteDeadline(time.Time{})
}

// readRequest reads a line and returns what came after it too.
func readRequest(conn net.Conn) (req wanted, rest []byte, err error) {
	buf := make([]byte, maxRequest)
	for n := 0; n < len(buf); {
		k, err := conn.Read(buf[n:])
		n += k
		if line, rest, ok := bytes.Cut(buf[:n], []byte("\n")); ok {
			return req, rest, json.Unmarshal(line, &req)
		}
		if err != nil {
			return req, nil, err
		}
	}
	return req, nil, errors.New("request is too long")
}

// dial joins a connection with a new stream to the guest. It costs two buffers of 32 KiB
// (io.Copy's) and four goroutines; link.MaxStreams bounds how many there are.
func (s *shim) dial(conn *net.UnixConn, req wanted, rest []byte) {
	ctx := context.Background()
	if req.Control {
		ctx = guest.WithControl(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone, stop := hangUp(conn)
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	stream, err := s.channel.open(ctx)
	stop()
	if err != nil {
		say(conn, answer{Error: err.Error()})
		return
	}
	say(conn, answer{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		toGuest(stream, conn, rest)
	}()
	fromGuest(conn, stream)
	<-done
}

// toGuest copies a client's bytes and passes on its half-close. A client that
// has gone altogether ends the stream, even if the guest never writes to it.
func toGuest(stream *link.Stream, conn *net.UnixConn, rest []byte) {
	err := begin(stream, conn, rest)
	if err == nil {
		_, err = io.Copy(stream, conn)
	}
	if err == nil {
		_ = stream.CloseWrite() // fails only when the stream has ended
		gone, _ := hangUp(conn)
		<-gone
	}
	_ = stream.Close() // likewise
	time.AfterFunc(linger, stream.Reset)
}

// begin passes on a stream's first bytes. A client that sends none is dropped: it would take
// one of the guest's streams, and the guest, which doesn't know of it, couldn't end it.
func begin(stream *link.Stream, conn *net.UnixConn, first []byte) error {
	if len(first) == 0 {
		first = make([]byte, maxRequest)
		_ = conn.SetReadDeadline(time.Now().Add(requestWait)) // a unix socket always can
		n, err := conn.Read(first)
		_ = conn.SetReadDeadline(time.Time{})
		if err != nil && err != io.EOF {
			return err
		}
		first = first[:n]
	}
	_, err := stream.Write(first)
	return err
}

// fromGuest copies the guest's bytes and passes on its half-close. If the stream breaks, the
// connection is closed without a half-close.
func fromGuest(conn *net.UnixConn, stream *link.Stream) {
	_, err := io.Copy(conn, stream)
	if err == nil {
		err = conn.CloseWrite()
	}
	if err != nil {
		_ = conn.Close() // wakes toGuest
	}
}

// hangUp returns a channel that is closed when the other side has closed both
// directions, or ours is closed. Until stop has returned nobody else may read.
func hangUp(conn *net.UnixConn) (gone <-chan struct{}, stop func()) {
	closed, returned := make(chan struct{}), make(chan struct{})
	raw, err := conn.SyscallConn()
	if err != nil {
		close(closed)
		return closed, func() {}
	}
	go func() {
		defer close(returned)
		// Polling for no event still reports POLLHUP: both directions are shut down.
		err := raw.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd)}}
			_, err := unix.Poll(p, 0)
			return err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		})
		if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
			close(closed)
		}
	}()
	return closed, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		<-returned
		_ = conn.SetReadDeadline(time.Time{})
	}
}

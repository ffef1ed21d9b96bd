package session

import (
	"io"
	"math"
	"net"

	"banger/guest"
)

// Output answers an OutputRequest on conn, of which r is the reading side, and sends what
// there is to a reader: a follower that the command doesn't know of. It confirms nothing and
// holds nothing back. Closing conn is the caller's.
func (t *Table) Output(conn net.Conn, r io.Reader, version int, req guest.OutputRequest) error {
	var f *follower
	s, err := t.find(req.ID)
	if err == nil {
		f, err = s.reader(req)
	}
	hello, err := guest.AppendResponse(nil, version, nil, err)
	if err == nil && f == nil {
		_, err = conn.Write(hello)
	}
	if err != nil || f == nil {
		return err
	}
	go func() {
		_, err := io.Copy(io.Discard, r) // ends with the client, or with conn
		f.leave(err)
	}()
	return f.transmit(conn, hello)
}

func (s *session) reader(req guest.OutputRequest) (*follower, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, _, ok := s.out.seek([2]int64{max(0, req.Stdout), max(0, req.Stderr)})
	if !ok {
		return nil, guest.Errorf(guest.CodeInvalid, "the client has more output than there was")
	}
	f := &follower{s: s, at: at, stdinAck: math.MaxInt64}
	if !req.Follow {
		end := s.out.end
		f.until = &end
	}
	return f, nil
}

// sated reports whether a reader that doesn't follow has what there was when it came.
func (f *follower) sated() bool {
	return f.until != nil && (!f.s.out.pending(f.at) || f.at.sent[stdout] >= f.until[stdout] && f.at.sent[stderr] >= f.until[stderr])
}

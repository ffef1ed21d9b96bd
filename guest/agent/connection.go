package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"

	"banger/guest"
	"banger/guest/agent/dial"
	"banger/guest/flow"
)

// connection serves what has to do with connections in the guest.
func (s *Server) connection(conn net.Conn, r *bufio.Reader, version int, req guest.Request) {
	var err error
	switch {
	case s.Configured != nil && !s.Configured():
		err = guest.Errorf(guest.CodeUnavailable, "the guest isn't configured yet: it has no network and no users")
	case req.Op == guest.OpListen:
		var b flow.ListenRequest
		if err = decode(req.Body, &b); err == nil {
			err = s.listen(conn, r, version, b)
		}
	case req.Op == guest.OpAccept:
		var b flow.AcceptRequest
		var far net.Conn
		if err = decode(req.Body, &b); err == nil {
			far, err = s.Callers.Take(b.ID)
		}
		if err == nil {
			carry(conn, r, version, far)
		}
	default:
		var b flow.DialRequest
		var far net.Conn
		if err = decode(req.Body, &b); err == nil {
			far, err = dial.Dial(context.Background(), b)
		}
		if err == nil {
			carry(conn, r, version, far)
		}
	}
	if err != nil {
		_ = respond(conn, version, nil, err)
	}
}

// carry joins a stream with a connection.
func carry(conn net.Conn, r *bufio.Reader, version int, far net.Conn) {
	if respond(conn, version, nil, nil) != nil {
		_ = far.Close()
		return
	}
	if far, ok := far.(flow.Duplex); ok {
		flow.Join(flow.New(conn, r, false), far)
		return
	}
	defer far.Close()
	datagrams(flow.New(conn, r, true), far)
}

// datagrams copies them both ways until the stream ends. One that nobody takes is lost.
func datagrams(near *flow.Conn, far net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		buf := make([]byte, flow.MaxDatagram)
		for {
			n, err := near.Read(buf)
			if err != nil {
				return
			}
			_, _ = far.Write(buf[:n])
		}
	}()
	buf := make([]byte, flow.MaxDatagram)
	for {
		n, err := far.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			continue // ECONNREFUSED is the answer to a datagram; the next one may be taken
		}
		if _, err := near.Write(buf[:n]); err != nil {
			break
		}
	}
	_ = near.Close()
	<-done
}

// listen announces connections until the client leaves.
func (s *Server) listen(conn net.Conn, r io.Reader, version int, req flow.ListenRequest) error {
	l, err := s.Callers.Listen(req)
	if err != nil {
		return err
	}
	defer l.Close()
	if respond(conn, version, flow.Listens{Address: l.Address()}, nil) != nil {
		return nil
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, r)
	}()
	for n := int64(0); ; n++ {
		select {
		case <-gone:
			return nil
		case a := <-l.Arrivals():
			raw, err := json.Marshal(a)
			if err != nil {
				return err
			}
			if _, err := conn.Write(guest.AppendFrame(nil, guest.Frame{Type: guest.FrameNotice, Offset: n, Data: raw})); err != nil {
				return nil
			}
		}
	}
}

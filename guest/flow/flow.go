package flow

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"

	"banger/guest"
)

// DialRequest asks for a connection from within the guest; a Conn follows.
type DialRequest struct {
	Network string `json:"network"` // "tcp", "udp" or "unix"
	// Address is host:port, or the path of a socket; "@name" is an abstract one. The host
	// "localhost" is 127.0.0.1 or ::1; if the port's listeners are bound to neither, first
	// the address that one is bound to.
	Address string `json:"address"`
	User    string `json:"user,omitempty"` // whose rights count for a socket's path, as ExecSpec.User
}

// ListenRequest asks the guest to take connections, until the stream ends. FrameNotice
// frames follow, each with an Arrival.
type ListenRequest struct {
	Network string `json:"network"` // "tcp", "unix", or "agent": a socket at a path that stays the same for a user
	// Address is host:port, or the path of a socket. The host "" is all addresses,
	// "localhost" 127.0.0.1 and ::1; port 0 is one that is free. A socket that is at the
	// path and that nobody listens on is replaced.
	Address string `json:"address,omitempty"`
	User    string `json:"user,omitempty"` // whose rights count, as ExecSpec.User
}

// Listens is the answer to a ListenRequest.
type Listens struct {
	Address string `json:"address"` // with the port that was chosen, or the path
}

// Arrival is a connection that waits in the guest for AcceptRequest.
type Arrival struct {
	ID   string `json:"id"`
	From string `json:"from,omitempty"` // the other side's address
}

// AcceptRequest takes a connection that has arrived; a Conn follows. CodeNotFound if it
// has gone.
type AcceptRequest struct {
	ID string `json:"id"`
}

// Dial makes a connection in the guest. What the guest's kernel says about it is
// guest.CodeUnavailable, of a path or name that isn't there guest.CodeNotFound; an agent
// that doesn't know the operation says guest.CodeInvalid. The connection isn't tied to ctx.
func Dial(ctx context.Context, to guest.Dialer, req DialRequest) (*Conn, error) {
	return open(ctx, to, guest.OpDial, req, req.Network == "udp")
}

func open(ctx context.Context, to guest.Dialer, op string, req any, datagrams bool) (*Conn, error) {
	conn, r, err := guest.Open(ctx, to, op, req, nil)
	if err != nil {
		return nil, err
	}
	return New(conn, r, datagrams), nil
}

// Listen makes the guest take connections until the Listener is closed.
func Listen(ctx context.Context, to guest.Dialer, req ListenRequest) (*Listener, error) {
	var at Listens
	conn, r, err := guest.Open(ctx, to, guest.OpListen, req, &at)
	if err != nil {
		return nil, err
	}
	return &Listener{Address: guest.Clean(at.Address), to: to, conn: conn, frames: guest.NewFrameReader(r)}, nil
}

// Listener takes connections that come to an address in the guest. It dies with its
// stream: then the guest no longer listens, and Accept says so.
type Listener struct {
	Address string // with the port that was chosen, or the path

	to     guest.Dialer
	conn   net.Conn
	frames *guest.FrameReader
}

// Accept returns the next connection and the address that it came from.
func (l *Listener) Accept(ctx context.Context) (c *Conn, from string, err error) {
	for {
		f, err := l.frames.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrBroken
			}
			return nil, "", err
		}
		var a Arrival
		if f.Type != guest.FrameNotice || json.Unmarshal(f.Data, &a) != nil {
			return nil, "", guest.Errorf(guest.CodeProtocol, "the guest announced no connection but sent a frame of type %d", f.Type)
		}
		c, err := open(ctx, l.to, guest.OpAccept, AcceptRequest{a.ID}, false)
		if guest.CodeOf(err) == guest.CodeNotFound {
			continue // its other side has left again
		}
		return c, guest.Clean(a.From), err
	}
}

// Close ends it.
func (l *Listener) Close() error { return l.conn.Close() }

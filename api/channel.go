package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"banger"
	"banger/api/wire"
	"banger/host/unixsock"
)

// passing is the protocol that a client on this host upgrades to. The answer, 101,
// carries a descriptor of the stream (SCM_RIGHTS, unix(7)): its bytes don't pass
// through the daemon, and it outlives the daemon. The client keeps its connection
// open while it uses the stream, and sends nothing more on it.
const passing = "banger-descriptor"

// channel gives the client one stream to the guest's agent: as a descriptor, or as a
// WebSocket to clients that can't take one, such as browsers. Errors before the
// upgrade are plain HTTP errors.
func (s vmHandlers) channel(w http.ResponseWriter, r *http.Request, _ wire.Nothing) error {
	protocol := r.Header.Get("Upgrade")
	if protocol != passing && !strings.EqualFold(protocol, "websocket") {
		return banger.Errorf(banger.CodeInvalid, "a stream is another protocol: the request upgrades to none of them").WithHint("upgrade to websocket, or to " + passing)
	}
	conn, err := s.Dial(r.Context(), r.PathValue("vm"))
	if err != nil {
		return err
	}
	// When the daemon ends, so does the request's context, and then the stream.
	stop := context.AfterFunc(r.Context(), func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	if protocol == passing {
		return pass(w, r, conn)
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil // it has answered
	}
	// A WebSocket can't be closed in one direction only. It needn't be: package guest
	// marks the end of a direction with a frame.
	client := websocket.NetConn(r.Context(), ws, websocket.MessageBinary)
	carry(client, conn, func() { _ = ws.Close(websocket.StatusNormalClosure, "") })
	return nil
}

// carry copies both ways until either side ends, and closes both.
func carry(client io.ReadWriter, conn net.Conn, hangUp func()) {
	up := make(chan struct{})
	go func() {
		defer close(up)
		_, _ = io.Copy(conn, client)
		_ = conn.Close()
	}()
	_, _ = io.Copy(client, conn)
	_ = conn.Close()
	hangUp()
	<-up
}

// pass hands a descriptor of the stream to the client and returns when the client
// has closed its connection.
func pass(w http.ResponseWriter, r *http.Request, conn net.Conn) error {
	stream, done, err := descriptor(conn)
	if err != nil {
		return err
	}
	defer done()
	hijacked, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer func() { _ = hijacked.Close() }()
	client, ok := hijacked.(*net.UnixConn)
	if !ok {
		return nil // the client isn't on this host, and can't take a descriptor
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + passing + "\r\n\r\n"
	_ = client.SetWriteDeadline(time.Now().Add(10 * time.Second))
	cerr := stream.Control(func(fd uintptr) {
		_, _, err = client.WriteMsgUnix([]byte(answer), unix.UnixRights(int(fd)), nil)
	})
	if errors.Join(cerr, err) != nil {
		return nil // the client has left
	}
	stop := context.AfterFunc(r.Context(), func() { _ = client.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, _ = io.Copy(io.Discard, client)
	return nil
}

// descriptor returns the descriptor that a client gets for a stream: the stream's
// own, or, if it has none, one end of a socket pair whose other end is copied to it.
func descriptor(conn net.Conn) (stream syscall.RawConn, done func(), err error) {
	if s, ok := conn.(syscall.Conn); ok {
		if stream, err = s.SyscallConn(); err == nil {
			return stream, func() {}, nil
		}
	}
	ours, theirs, err := unixsock.Pair()
	if err != nil {
		return nil, nil, err
	}
	if stream, err = theirs.SyscallConn(); err != nil {
		return nil, nil, errors.Join(err, theirs.Close(), ours.Close())
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		carry(ours, conn, func() { _ = ours.Close() })
	}()
	return stream, func() { _ = theirs.Close(); _ = conn.Close(); <-copied }, nil
}

// Dial implements banger.VMService.
func (c vms) Dial(ctx context.Context, ref string) (conn net.Conn, err error) {
	_, err = repeat(ctx, func() error {
		conn, err = c.dial(ctx, ref)
		return err
	})
	return conn, err
}

func (c vms) dial(ctx context.Context, ref string) (net.Conn, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	stream, err := take(ctx, conn, ref)
	if !stop() && err == nil {
		err = errors.Join(ctx.Err(), stream.Close())
	}
	if err != nil {
		_ = conn.Close()
		return nil, transportError(ctx, err)
	}
	return &channel{stream, conn}, nil
}

// take asks for a stream and receives it.
func take(ctx context.Context, conn net.Conn, ref string) (*net.UnixConn, error) {
	daemon, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, banger.Errorf(banger.CodeInternal, "a stream can only be taken from a Unix socket")
	}
	req, err := http.NewRequestWithContext(ctx, "GET", "http://banger"+vmPath(ref, "channel"), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", passing)
	if err := req.Write(daemon); err != nil {
		return nil, err
	}
	// The descriptor comes with the answer's first byte.
	buf := make([]byte, 4096)
	n, stream, err := unixsock.Receive(daemon, buf)
	if err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(buf[:n]), daemon)), req)
	switch {
	case err != nil:
	case resp.StatusCode >= 400:
		err = wire.ReadError(resp)
	case resp.StatusCode != http.StatusSwitchingProtocols || stream == nil:
		err = banger.Errorf(banger.CodeInternal, "the daemon answered %s without a stream", resp.Status)
	default:
		conn, err := unixsock.Take(stream)
		if err != nil {
			err = banger.Errorf(banger.CodeInternal, "the descriptor that the daemon sent: %w", err)
		}
		return conn, err
	}
	if stream != nil {
		_ = stream.Close()
	}
	return nil, err
}

// channel is a stream, with the connection that tells the daemon it is in use.
type channel struct {
	*net.UnixConn
	daemon net.Conn
}

// Close closes both.
func (c *channel) Close() error { return errors.Join(c.UnixConn.Close(), c.daemon.Close()) }

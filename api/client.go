package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"banger"
	"banger/api/wire"
	"banger/host/unixsock"
	"banger/version"
)

// Client is a daemon's banger.Services over its socket. When the daemon goes away
// during a call that may be repeated, the call is made again on a new connection.
type Client struct {
	// Replace, unless nil, is called once for each daemon that the client meets. It may
	// end that daemon; then it returns true, and the client connects again.
	Replace func(context.Context, version.Daemon) (bool, error)

	http  *http.Client
	reach func(ctx context.Context) (net.Conn, error) // NewClient's dial
	met   atomic.Int64                                // PID of the daemon whose API version is known to fit
}

// NewClient returns a client that connects by dial, which may start the daemon. On
// the first connection to each daemon, the API versions are compared.
func NewClient(dial func(ctx context.Context) (net.Conn, error)) *Client {
	c := &Client{reach: dial}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
		DisableCompression: true,
		IdleConnTimeout:    time.Minute,
	}}
	return c
}

// The services of a Client.
type (
	vms        struct{ *Client }
	images     struct{ *Client }
	kernels    struct{ *Client }
	templates  struct{ *Client }
	operations struct{ *Client }
	system     struct{ *Client }
)

var _ banger.Services = (*Client)(nil)

// VMs implements banger.Services.
func (c *Client) VMs() banger.VMs { return vms{c} }

// Images implements banger.Services.
func (c *Client) Images() banger.ImageService { return images{c} }

// Kernels implements banger.Services.
func (c *Client) Kernels() banger.KernelService { return kernels{c} }

// Templates implements banger.Services.
func (c *Client) Templates() banger.TemplateService { return templates{c} }

// Operations implements banger.Services.
func (c *Client) Operations() banger.OperationService { return operations{c} }

// System implements banger.Services.
func (c *Client) System() banger.SystemService { return system{c} }

// connect makes a connection to a daemon of our API version.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := c.reach(ctx)
		if err != nil {
			return nil, err
		}
		pid, _, _ := unixsock.Peer(conn) // -1 of a connection that has none
		if pid > 0 && c.met.Load() == int64(pid) {
			return conn, nil
		}
		replaced, err := c.meet(ctx, conn)
		if err == nil && !replaced {
			c.met.Store(int64(pid))
			return conn, nil
		}
		_ = conn.Close()
		if err != nil {
			return nil, err
		}
	}
}

// meet asks the daemon at the other end of conn for its version. It returns an error
// if that doesn't fit ours, and whether Replace ended the daemon.
func (c *Client) meet(ctx context.Context, conn net.Conn) (replaced bool, err error) {
	d, err := Hello(ctx, conn)
	if err != nil {
		return false, err
	}
	if c.Replace != nil {
		if replaced, err = c.Replace(ctx, d); replaced || err != nil {
			return replaced, err
		}
	}
	if d.API != version.API {
		return false, banger.Errorf(banger.CodeUnavailable, "the running daemon (bangerd %s) speaks API version %d, this banger (%s) version %d", d.Build, d.API, version.String(), version.API).
			WithHint("end it with `banger daemon stop`; running VMs run on, and the next command starts the daemon that belongs to it")
	}
	return false, nil
}

// Hello asks the daemon at the other end of conn for its version. It works with a
// daemon of any API version.
func Hello(ctx context.Context, conn net.Conn) (version.Daemon, error) {
	var d version.Daemon
	in := bufio.NewReader(conn)
	err := plain(ctx, conn, in, "GET", "/v2/version", &d)
	if banger.CodeOf(err) == banger.CodeNotFound {
		err = plain(ctx, conn, in, "GET", "/v1/version", &d)
		d.API = 1 // whatever it says: its paths are those of version 1
	}
	return d, err
}

// Stop asks the daemon at the other end of conn to end; its VMs run on. It
// works with a daemon of any API version.
func Stop(ctx context.Context, conn net.Conn) error {
	return plain(ctx, conn, bufio.NewReader(conn), "POST", "/v1/stop", nil)
}

// plain makes one request on conn and leaves the connection open.
func plain(ctx context.Context, conn net.Conn, in *bufio.Reader, method, path string, result any) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, method, "http://banger"+path, nil)
	if err != nil {
		return err
	}
	if err := req.Write(conn); err != nil {
		return transportError(ctx, err)
	}
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return transportError(ctx, err)
	}
	return finish(ctx, resp, result, nil)
}

// call makes a request and decodes its answer: an error, a value, or progress with a
// value at its end.
func (c *Client) call(ctx context.Context, method, path string, in, out any, p banger.Progress) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	resp, err := send(ctx, c.http, method, path, body)
	if err != nil {
		return err
	}
	return finish(ctx, resp, out, p)
}

// repeat makes a call that may be repeated, and makes it again as long as daemons go
// away during it, for three seconds: a new connection may still reach the one that is
// ending, and on a busy host one daemon may be ended after another.
func repeat(ctx context.Context, call func() error) (repeated bool, err error) {
	for pause := 10 * time.Millisecond; ; pause *= 4 {
		err = call()
		if !errors.Is(err, wire.ErrLost) || pause > 3*time.Second {
			return repeated, err
		}
		repeated = true
		select {
		case <-ctx.Done():
			return repeated, transportError(ctx, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// callRepeated is call, repeated.
func (c *Client) callRepeated(ctx context.Context, method, path string, in, out any, p banger.Progress) error {
	_, err := repeat(ctx, func() error { return c.call(ctx, method, path, in, out, p) })
	return err
}

// got asks for one thing.
func got[T any](ctx context.Context, c *Client, path string) (T, error) {
	var one T
	err := c.callRepeated(ctx, "GET", path, nil, &one, nil)
	return one, err
}

// listed asks for a list.
func listed[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	all, err := got[wire.Results[T]](ctx, c, path)
	return all.Results, err
}

func send(ctx context.Context, c *http.Client, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://banger"+path, body)
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	return resp, nil
}

// finish reads an answer to its end: an error, a stream of progress, or a value.
func finish(ctx context.Context, resp *http.Response, out any, p banger.Progress) error {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 400 {
		return wire.ReadError(resp)
	}
	var err error
	switch {
	case resp.Header.Get("Content-Type") == wire.LinesType:
		err = wire.ReadStream(resp.Body, out, p)
	case out != nil && resp.StatusCode != http.StatusNoContent:
		err = json.NewDecoder(io.LimitReader(resp.Body, wire.MaxAnswer)).Decode(out)
	}
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096)) // so that the connection is used again
	}
	return transportError(ctx, err)
}

// transportError makes a banger.Error of an error of the connection. One that is a
// banger.Error already stays as it is.
func transportError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*banger.Error](err); ok {
		return e
	}
	switch ctx.Err() {
	case context.Canceled:
		return banger.Errorf(banger.CodeCanceled, "interrupted: %w", context.Canceled)
	case context.DeadlineExceeded:
		return banger.Errorf(banger.CodeTimeout, "the daemon didn't answer in time: %w", context.DeadlineExceeded)
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return banger.Errorf(banger.CodeUnavailable, "%w", fmt.Errorf("%w (%w)", wire.ErrLost, err)).
		WithHint("try again: the next command starts it")
}

// hintLost adds a hint to the error of a call during which the daemon went away.
func hintLost(err error, hint string) error {
	if e, ok := errors.AsType[*banger.Error](err); ok && errors.Is(err, wire.ErrLost) {
		return e.WithHint("%s", hint)
	}
	return err
}

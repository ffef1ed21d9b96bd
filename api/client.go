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
	"sync"
	"sync/atomic"
	"time"

	"banger"
	"banger/unixsock"
	"banger/version"
)

// Client is a daemon's VMService and Catalog as seen through its socket. A
// call that may be repeated is repeated once, on a new connection, when the
// daemon goes away under it.
type Client struct {
	// Replace, where it is set, is asked about each daemon that is met, and says
	// whether it has ended that one, so that the next connection reaches another.
	Replace func(context.Context, version.Daemon) (bool, error)

	http  *http.Client
	reach func(ctx context.Context) (net.Conn, error) // NewClient's dial
	met   atomic.Int64                                // the process of the daemon that was met and agreed with
}

// NewClient returns a client whose every connection is made by dial, which may
// start the daemon for it. The first connection to each daemon begins with a
// comparison of the API versions.
func NewClient(dial func(ctx context.Context) (net.Conn, error)) *Client {
	c := &Client{reach: dial}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.connect(ctx) },
		DisableCompression: true,
		IdleConnTimeout:    time.Minute,
	}}
	return c
}

// errLost marks that the daemon went away in the middle of a call.
var errLost = errors.New("the daemon went away")

// connect makes a connection to a daemon that we agree with.
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

// meet asks the daemon at the other end of conn what it is.
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

// Hello asks the daemon at the other end of conn what it is. It works with a
// daemon of any API version.
func Hello(ctx context.Context, conn net.Conn) (version.Daemon, error) {
	var d version.Daemon
	err := plain(ctx, conn, "GET", "/v1/version", &d)
	return d, err
}

// Stop asks the daemon at the other end of conn to end; its VMs run on. It
// works with a daemon of any API version.
func Stop(ctx context.Context, conn net.Conn) error {
	return plain(ctx, conn, "POST", "/v1/stop", &struct{}{})
}

// plain makes one request on conn and leaves the connection open.
func plain(ctx context.Context, conn net.Conn, method, path string, result any) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, method, "http://banger"+path, nil)
	if err != nil {
		return err
	}
	if err := req.Write(conn); err != nil {
		return transportError(ctx, err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return transportError(ctx, err)
	}
	return finish(ctx, resp, result, nil)
}

// call makes a request and decodes its answer, whatever form it has.
func (c *Client) call(ctx context.Context, method, path string, in, out any, p banger.Progress) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	resp, err := send(ctx, c, method, path, body)
	if err != nil {
		return err
	}
	return finish(ctx, resp, out, p)
}

// repeat makes a call that may be repeated, again while daemons go away under
// it: a new connection may still reach the one that is ending.
func repeat(ctx context.Context, call func() error) (repeated bool, err error) {
	for pause := 10 * time.Millisecond; ; pause *= 4 {
		err = call()
		if !errors.Is(err, errLost) || pause > time.Second {
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

// callRepeated is a call that may be repeated.
func (c *Client) callRepeated(ctx context.Context, method, path string, in, out any, p banger.Progress) error {
	_, err := repeat(ctx, func() error { return c.call(ctx, method, path, in, out, p) })
	return err
}

func send(ctx context.Context, c *Client, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://banger"+path, body)
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	return resp, nil
}

// finish reads an answer to its end: an error, a stream of progress, or a value.
func finish(ctx context.Context, resp *http.Response, out any, p banger.Progress) error {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 400 {
		return answeredError(resp)
	}
	var err error
	if resp.Header.Get("Content-Type") == ndjson {
		err = readStream(resp.Body, out, p)
	} else {
		err = json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out)
	}
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096)) // so that the connection is used again
	}
	return transportError(ctx, err)
}

// answeredError reads the error a daemon answered with.
func answeredError(resp *http.Response) error {
	var l line
	// Decoded without waiting for the answer's end: the server may still be
	// reading what we send.
	if json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&l) == nil && l.Error != nil {
		return l.Error
	}
	return banger.Errorf(banger.CodeInternal, "the daemon answered %s without saying why", resp.Status)
}

// transportError gives an error of the connection its meaning; one that a
// daemon or a dialer phrased stays as it is.
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
	return banger.Errorf(banger.CodeUnavailable, "%w", fmt.Errorf("%w (%w)", errLost, err)).
		WithHint("try again: the next command starts it")
}

func vmPath(ref string, rest ...string) string {
	p := "/v1/vms/" + url.PathEscape(ref)
	for _, r := range rest {
		p += "/" + r
	}
	return p
}

// CreateVM implements banger.VMService.
func (c *Client) CreateVM(ctx context.Context, spec banger.Spec, start bool, p banger.Progress) (banger.VM, error) {
	var vm banger.VM
	err := c.call(ctx, "POST", "/v1/vms", createRequest{spec, start}, &vm, p)
	return vm, hintLost(err, "what it was making is undone when it starts again, or is complete: `banger ps` tells")
}

// hintLost says what becomes of a call whose daemon went away.
func hintLost(err error, hint string) error {
	if e, ok := errors.AsType[*banger.Error](err); ok && errors.Is(err, errLost) {
		return e.WithHint("%s", hint)
	}
	return err
}

// StartVM implements banger.VMService.
func (c *Client) StartVM(ctx context.Context, ref string, p banger.Progress) (banger.VM, error) {
	var vm banger.VM
	err := c.callRepeated(ctx, "POST", vmPath(ref, "start"), nil, &vm, p)
	return vm, err
}

// StopVM implements banger.VMService.
func (c *Client) StopVM(ctx context.Context, ref string, opt banger.StopOptions) (banger.VM, error) {
	var vm banger.VM
	err := c.callRepeated(ctx, "POST", vmPath(ref, "stop"), opt, &vm, nil)
	return vm, err
}

// DeleteVM implements banger.VMService.
func (c *Client) DeleteVM(ctx context.Context, ref string) error {
	repeated, err := repeat(ctx, func() error { return c.call(ctx, "DELETE", vmPath(ref), nil, &struct{}{}, nil) })
	if repeated && banger.CodeOf(err) == banger.CodeNotFound {
		return nil // the deletion was recorded, and the next daemon's recovery finished it
	}
	return err
}

// VM implements banger.VMService.
func (c *Client) VM(ctx context.Context, ref string) (banger.VM, error) {
	var vm banger.VM
	err := c.callRepeated(ctx, "GET", vmPath(ref), nil, &vm, nil)
	return vm, err
}

// VMs implements banger.VMService.
func (c *Client) VMs(ctx context.Context) ([]banger.VM, error) {
	var vms []banger.VM
	err := c.callRepeated(ctx, "GET", "/v1/vms", nil, &vms, nil)
	return vms, err
}

// Logs implements banger.VMService.
func (c *Client) Logs(ctx context.Context, ref string, follow bool) (io.ReadCloser, error) {
	path := vmPath(ref, "logs")
	if follow {
		path += "?follow=true"
	}
	resp, err := send(ctx, c, "GET", path, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 400 {
		defer func() { _ = resp.Body.Close() }()
		return nil, answeredError(resp)
	}
	return resp.Body, nil
}

// HoldVM implements banger.Leases. It goes on at the next daemon when one ends.
func (c *Client) HoldVM(ctx context.Context, ref string) error {
	for {
		err := c.call(ctx, "GET", vmPath(ref, "hold"), nil, &struct{}{}, nil)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, errLost) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond): // the lease allows for this many times over
		}
	}
}

// ImportImage implements banger.Catalog.
func (c *Client) ImportImage(ctx context.Context, name, source string, replace bool, tar io.Reader, p banger.Progress) (banger.Image, error) {
	q := url.Values{"name": {name}, "source": {source}}
	if replace {
		q.Set("replace", "true")
	}
	var img banger.Image
	in := &gate{r: tar}
	defer in.shut()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // closes the connection when the answer came before the tar's end
	resp, err := send(ctx, c, "POST", "/v1/images?"+q.Encode(), in)
	if err == nil {
		err = finish(ctx, resp, &img, p)
	}
	if failed := in.failed(); err != nil && failed != nil {
		return img, banger.Errorf(banger.CodeInvalid, "reading the tar: %w", failed)
	}
	return img, err
}

// gate lets reads through until it is shut: net/http may go on reading a
// request's body after its answer has come.
type gate struct {
	mu   sync.Mutex // guards done and err, never held while r is read
	r    io.Reader
	done bool
	err  error // what r failed with
}

func (g *gate) Read(p []byte) (int, error) {
	g.mu.Lock()
	done := g.done
	g.mu.Unlock()
	if done {
		return 0, io.ErrClosedPipe
	}
	n, err := g.r.Read(p)
	if err != nil && err != io.EOF {
		g.mu.Lock()
		g.err = err
		g.mu.Unlock()
	}
	return n, err
}

func (g *gate) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *gate) shut() {
	g.mu.Lock()
	g.done = true
	g.mu.Unlock()
}

// Images implements banger.Catalog.
func (c *Client) Images(ctx context.Context) ([]banger.Image, error) {
	var images []banger.Image
	err := c.callRepeated(ctx, "GET", "/v1/images", nil, &images, nil)
	return images, err
}

// DeleteImage implements banger.Catalog.
func (c *Client) DeleteImage(ctx context.Context, ref string) error {
	return c.call(ctx, "DELETE", "/v1/images/"+url.PathEscape(ref), nil, &struct{}{}, nil)
}

// PullKernel implements banger.Catalog.
func (c *Client) PullKernel(ctx context.Context, name string, p banger.Progress) (banger.Kernel, error) {
	var k banger.Kernel
	err := c.callRepeated(ctx, "POST", "/v1/kernels", pullRequest{name}, &k, p)
	return k, err
}

// DeleteKernel implements banger.Catalog.
func (c *Client) DeleteKernel(ctx context.Context, ref string) error {
	return c.call(ctx, "DELETE", "/v1/kernels/"+url.PathEscape(ref), nil, &struct{}{}, nil)
}

// Kernels implements banger.Catalog.
func (c *Client) Kernels(ctx context.Context) ([]banger.Kernel, error) {
	var kernels []banger.Kernel
	err := c.callRepeated(ctx, "GET", "/v1/kernels", nil, &kernels, nil)
	return kernels, err
}

var (
	_ banger.VMService = (*Client)(nil)
	_ banger.Catalog   = (*Client)(nil)
	_ banger.Leases    = (*Client)(nil)
)

package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"banger/host/unixsock"
)

// maxReply bounds an answer; those we ask for have a few hundred bytes.
const maxReply = 64 << 10

// api is one connection to a VMM's API socket.
type api struct {
	client http.Client
	pid    int // PID of the process that listens on the socket, from the kernel
}

// onAPI calls f with the API of the machine in dir, for at most within. Whether the process
// that listens is a Firecracker isn't checked.
func onAPI(ctx context.Context, dir string, within time.Duration, f func(context.Context, *api) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var c *net.UnixConn
	var err error
	for _, at := range append([]string{dir}, roots(dir)...) {
		// A hostile program in the jail could put a symbolic link there.
		if c, err = unixsock.DialItself(ctx, filepath.Join(at, apiSocket)); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("the API of %s: %w", dir, err)
	}
	defer func() { _ = c.Close() }() // nothing of ours is buffered
	a := &api{client: http.Client{Transport: &http.Transport{
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return c, nil },
		MaxConnsPerHost: 1,
	}}}
	if a.pid, _, err = unixsock.Peer(c); err != nil {
		return err
	}
	return f(ctx, a)
}

// instance is Firecracker's InstanceInfo.
type instance struct {
	ID    string `json:"id"`
	State string `json:"state"` // "Not started", "Running", "Paused"
}

// do makes one request, described by v if not nil, and decodes the answer into
// answer, if not nil.
func (a *api) do(ctx context.Context, method, path string, v, answer any) error {
	var body []byte
	var err error
	if v != nil {
		if body, err = json.Marshal(v); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://firecracker"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	switch {
	case err != nil:
		return err
	case resp.StatusCode/100 != 2:
		var fault struct {
			Message string `json:"fault_message"`
		}
		_ = json.Unmarshal(reply, &fault) // no message then
		return fmt.Errorf("%s %s: Firecracker says %s %.200q", method, path, resp.Status, fault.Message)
	case answer != nil:
		return json.Unmarshal(reply, answer)
	}
	return nil
}

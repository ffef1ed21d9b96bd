package firecracker

import (
	"banger/unixsock"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"banger"
)

// maxReply bounds an answer; those we ask for have a few hundred bytes.
const maxReply = 64 << 10

// api is one connection to a VMM's API socket.
type api struct {
	client *http.Client
	conn   *net.UnixConn
	pid    int // who listens on the socket, by the kernel's word
}

// dialAPI connects to the API of the machine in dir. What listens is only believed
// to be a Firecracker; see isVMM.
func dialAPI(ctx context.Context, dir string) (*api, error) {
	var c *net.UnixConn
	var err error
	for _, name := range apiSockets(dir) {
		if c, err = unixsock.Dial(ctx, filepath.Join(dir, name)); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the API of %s: %w", dir, err)
	}
	a := &api{conn: c}
	if a.pid, _, err = unixsock.Peer(c); err != nil {
		a.close()
		return nil, err
	}
	a.client = &http.Client{Transport: &http.Transport{
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return c, nil },
		MaxConnsPerHost: 1,
	}}
	return a, nil
}

// apiSockets returns where a machine's API may be: in its directory or its jail.
func apiSockets(dir string) []string {
	list := []string{apiSocket}
	jails, _ := filepath.Glob(filepath.Join(globQuote(dir), jailDir, "*", "*", "root", apiSocket)) // the pattern is well-formed
	for _, j := range jails {
		if name, err := filepath.Rel(dir, j); err == nil {
			list = append(list, name)
		}
	}
	return list
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}

// onAPI has f ask the API of the machine in dir, for so long at most.
func onAPI(ctx context.Context, dir string, within time.Duration, f func(context.Context, *api) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	a, err := dialAPI(ctx, dir)
	if err != nil {
		return err
	}
	defer a.close()
	return f(ctx, a)
}

func (a *api) close() { _ = a.conn.Close() } // nothing of ours is buffered

// instance is Firecracker's InstanceInfo.
type instance struct {
	ID      string `json:"id"`
	State   string `json:"state"` // "Not started", "Running", "Paused"
	Version string `json:"vmm_version"`
}

func (a *api) instance(ctx context.Context) (i instance, err error) {
	return i, a.get(ctx, "/", &i)
}

// Statistics is what a guest's balloon reports, in bytes, as of its last report
// (Firecracker's docs/ballooning.md, "Virtio balloon statistics").
type Statistics struct {
	TotalMemory     int64 `json:"total_memory"`
	FreeMemory      int64 `json:"free_memory"`
	AvailableMemory int64 `json:"available_memory"`
	DiskCaches      int64 `json:"disk_caches"`
}

// Statistics asks a running machine what its guest uses of its memory.
func (d *Driver) Statistics(ctx context.Context, m banger.Machine) (s Statistics, err error) {
	return s, onAPI(ctx, m.Dir, answerTimeout, func(ctx context.Context, a *api) error {
		return a.get(ctx, "/balloon/statistics", &s)
	})
}

// get asks, and decodes the answer into v.
func (a *api) get(ctx context.Context, path string, v any) error {
	body, err := a.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// set asks for a change, described by v.
func (a *api) set(ctx context.Context, method, path string, v any) error {
	body, err := json.Marshal(v)
	if err == nil {
		_, err = a.do(ctx, method, path, bytes.NewReader(body))
	}
	return err
}

// do makes one request and returns the answer's body.
func (a *api) do(ctx context.Context, method, path string, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://firecracker"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		var fault struct {
			Message string `json:"fault_message"`
		}
		_ = json.Unmarshal(reply, &fault) // no message then
		return nil, fmt.Errorf("%s %s: Firecracker says %s %.200q", method, path, resp.Status, fault.Message)
	}
	return reply, nil
}

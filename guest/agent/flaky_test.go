package agent_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"banger/guest"
)

// flaky makes the client's streams break after a random number of bytes, at
// most limit, counted over both directions.
func flaky(c *guest.Client, limit int) (cuts *atomic.Int64) {
	cuts = new(atomic.Int64)
	dial := c.Dial
	c.Dial = func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return &cutConn{Conn: conn, left: rand.IntN(limit), cuts: cuts}, nil
	}
	return cuts
}

// cutConn lets so many bytes pass, to the byte, and then breaks.
type cutConn struct {
	net.Conn
	cuts *atomic.Int64

	mu   sync.Mutex // guards left
	left int
}

var errCut = errors.New("the stream was cut")

func (c *cutConn) grant(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n >= c.left {
		if n = c.left; c.left > 0 {
			c.cuts.Add(1)
		}
	}
	c.left -= n
	return n
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if got := c.grant(n); got < n {
		c.Close()
		return got, errCut
	}
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	n := c.grant(len(p))
	if _, err := c.Conn.Write(p[:n]); err != nil {
		return 0, err
	}
	if n < len(p) {
		c.Close()
		return n, errCut
	}
	return n, nil
}

// kill ends a process a test left running, by the number it printed.
func kill(t testing.TB, pid string) {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil || n < 2 {
		t.Fatalf("no process number: %q", pid)
	}
	p, err := os.FindProcess(n)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Errorf("the process that was left behind is gone: %v", err)
	}
}

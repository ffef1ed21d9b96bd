package sshd

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/guest/flow"
)

// retryTime is the pause before the guest is asked again to listen, when that broke.
const retryTime = 500 * time.Millisecond

// globals answers the requests that are about no channel. A keepalive needs an answer,
// whichever.
func (c *client) globals(requests <-chan *ssh.Request) {
	for r := range requests {
		var answer []byte
		ok := false
		switch r.Type {
		case "tcpip-forward", "cancel-tcpip-forward":
			var at tcpAddress
			if ssh.Unmarshal(r.Payload, &at) != nil {
				break
			}
			if r.Type == "tcpip-forward" {
				answer, ok = c.forwardTCP(at)
			} else {
				ok = c.cancel(at.key())
			}
		case "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com":
			var at struct{ Path string }
			if ssh.Unmarshal(r.Payload, &at) != nil {
				break
			}
			if r.Type == "streamlocal-forward@openssh.com" {
				ok = c.forwardUnix(at.Path)
			} else {
				ok = c.cancel(at.Path)
			}
		}
		if r.WantReply {
			_ = r.Reply(ok, answer) // it fails when the client has left
		}
	}
}

// tcpAddress is where a client wants the guest to listen.
type tcpAddress struct {
	Host string
	Port uint32
}

func (a tcpAddress) key() string { return net.JoinHostPort(a.Host, fmt.Sprint(a.Port)) }

func (c *client) forwardTCP(at tcpAddress) (answer []byte, ok bool) {
	host := at.Host
	if host == "*" {
		host = ""
	}
	req := flow.ListenRequest{Network: "tcp", Address: net.JoinHostPort(host, fmt.Sprint(at.Port))}
	chosen := at
	address, ok := c.forward(req, func(address string) string {
		_, port, _ := net.SplitHostPort(address)
		n, _ := strconv.ParseUint(port, 10, 16)
		chosen.Port = uint32(n)
		return chosen.key()
	}, func(from string) (string, []byte) {
		host, port, _ := net.SplitHostPort(from)
		n, _ := strconv.ParseUint(port, 10, 16)
		return "forwarded-tcpip", ssh.Marshal(struct {
			Host     string
			Port     uint32
			From     string
			FromPort uint32
		}{chosen.Host, chosen.Port, host, uint32(n)})
	})
	if ok && at.Port == 0 && address != "" {
		answer = ssh.Marshal(struct{ Port uint32 }{chosen.Port})
	}
	return answer, ok
}

func (c *client) forwardUnix(path string) bool {
	_, ok := c.forward(flow.ListenRequest{Network: "unix", Address: path}, func(string) string { return path }, func(string) (string, []byte) {
		return "forwarded-streamlocal@openssh.com", ssh.Marshal(struct{ Path, Reserved string }{Path: path})
	})
	return ok
}

// forwardAgent makes the client's agent reachable in the guest, once. It returns the path,
// or "" if that can't be done.
func (c *client) forwardAgent() string {
	c.mu.Lock()
	path := c.agent
	c.mu.Unlock()
	if path != "" {
		return path
	}
	path, _ = c.forward(flow.ListenRequest{Network: "agent"}, func(string) string { return "agent" }, func(string) (string, []byte) {
		return "auth-agent@openssh.com", nil
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.agent = path
	return path
}

// forward makes the guest listen until the client leaves or cancels it, by the key of the
// address that was chosen. open says what channel to open for a connection.
func (c *client) forward(req flow.ListenRequest, key func(address string) string, open func(from string) (string, []byte)) (address string, ok bool) {
	ctx, cancel := context.WithCancel(c.ctx)
	req.User = c.spec.User
	l, err := flow.Listen(ctx, c.Guest.Dial, req)
	if err != nil {
		cancel()
		return "", false
	}
	if req.Network != "agent" {
		req.Address = l.Address // the same port when it has to be asked for again
	}
	c.mu.Lock()
	c.forwards[key(l.Address)] = cancel
	c.mu.Unlock()
	go c.take(ctx, l, req, open)
	return l.Address, true
}

// cancel ends a forward.
func (c *client) cancel(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	end, ok := c.forwards[key]
	if ok {
		delete(c.forwards, key)
		end()
	}
	return ok
}

// take passes on the connections of a listener until ctx ends. If its stream breaks, as
// when the VM's shim is replaced, the guest is asked again.
func (c *client) take(ctx context.Context, l *flow.Listener, req flow.ListenRequest, open func(from string) (string, []byte)) {
	defer func() { _ = l.Close() }() // the latest: ctx may have ended while it was made
	for ctx.Err() == nil {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		for {
			far, from, err := l.Accept(ctx)
			if err != nil {
				break
			}
			go c.pass(far, from, open)
		}
		stop()
		_ = l.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryTime):
			}
			again, err := flow.Listen(ctx, c.Guest.Dial, req)
			if err == nil {
				l = again
				break
			}
			if c.Guest.Final != nil && c.Guest.Final(err) {
				return // the VM has ended
			}
		}
	}
}

// pass opens a channel for a connection from the guest.
func (c *client) pass(far *flow.Conn, from string, open func(from string) (string, []byte)) {
	kind, extra := open(from)
	ch, requests, err := c.conn.OpenChannel(kind, extra)
	if err != nil {
		_ = far.Close() // nobody is there for it
		return
	}
	go ssh.DiscardRequests(requests)
	c.join(ch, far)
}

var _ flow.Duplex = (ssh.Channel)(nil)

// Package sshd is an SSH server for one guest that runs on the guest's host. Its client
// has been authenticated by whoever made the connection. Sessions become commands of the
// guest's agent, forwards its connections: so no server and no network is needed in the
// guest, and the guest needn't encrypt.
//
// It knows nothing of how a connection comes, of VMs and of how they start.
package sshd

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/guest"
	"banger/guest/flow"
)

// Server serves clients of one guest.
type Server struct {
	Guest *guest.Client
	Key   ssh.Signer
	// Spec is what the commands of a user begin with: the guest's user and environment.
	Spec func(user string) guest.ExecSpec
}

// goodbye is how long commands have to be told that their client has left.
const goodbye = 3 * time.Second

// ciphers are those that a processor does by itself. The two ends are on one host; what
// counts is how much they cost.
var ciphers = []string{"aes128-gcm@openssh.com", "aes256-gcm@openssh.com"}

// Serve serves one client until it leaves or ctx ends. Commands that then still run get
// SIGHUP, as from a terminal that was hung up. The error is that of the greeting.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	config := &ssh.ServerConfig{Config: ssh.Config{Ciphers: ciphers}, NoClientAuth: true, ServerVersion: "SSH-2.0-banger"}
	config.AddHostKey(s.Key)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	sc, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		_ = conn.Close()
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &client{Server: s, conn: sc, spec: s.Spec(sc.User()), forwards: map[string]context.CancelFunc{}}
	c.ctx = ctx
	go c.globals(requests)
	for nc := range channels {
		c.work.Go(func() { c.channel(nc) })
	}
	cancel()
	_ = sc.Wait() // the client has left, whatever it said
	c.work.Wait()
	return nil
}

// client is one connection.
type client struct {
	*Server
	ctx  context.Context // the connection's life
	conn *ssh.ServerConn
	spec guest.ExecSpec
	work sync.WaitGroup // channels that are served

	mu       sync.Mutex // guards what follows
	forwards map[string]context.CancelFunc
	agent    string // the path in the guest that leads to the client's agent; empty: not yet
}

// channel serves one channel to its end.
func (c *client) channel(nc ssh.NewChannel) {
	switch kind := nc.ChannelType(); kind {
	case "session":
		c.session(nc)
	case "direct-tcpip":
		var to struct {
			Host     string
			Port     uint32
			From     string
			FromPort uint32
		}
		if err := ssh.Unmarshal(nc.ExtraData(), &to); err != nil {
			_ = nc.Reject(ssh.ConnectionFailed, err.Error())
			return
		}
		c.direct(nc, flow.DialRequest{Network: "tcp", Address: net.JoinHostPort(to.Host, fmt.Sprint(to.Port))})
	case "direct-streamlocal@openssh.com":
		var to struct {
			Path     string
			From     string
			FromPort uint32
		}
		if err := ssh.Unmarshal(nc.ExtraData(), &to); err != nil {
			_ = nc.Reject(ssh.ConnectionFailed, err.Error())
			return
		}
		c.direct(nc, flow.DialRequest{Network: "unix", Address: to.Path})
	default:
		_ = nc.Reject(ssh.UnknownChannelType, "there are no channels of "+kind)
	}
}

// direct joins a channel with a connection made in the guest.
func (c *client) direct(nc ssh.NewChannel, req flow.DialRequest) {
	req.User = c.spec.User
	far, err := flow.Dial(c.ctx, c.Guest.Dial, req)
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, err.Error()) // it fails when the client has left
		return
	}
	ch, requests, err := nc.Accept()
	if err != nil {
		_ = far.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	c.join(ch, far)
}

// join copies both ways until both have ended, or the connection.
func (c *client) join(ch ssh.Channel, far *flow.Conn) {
	stop := context.AfterFunc(c.ctx, func() { _ = far.Close() })
	defer stop()
	flow.Join(ch, far)
}

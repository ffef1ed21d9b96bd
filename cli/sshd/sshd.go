// Package sshd is an SSH server for guests that runs on their host. Its client has been
// authenticated by whoever made the connection, or shows a key. Sessions become commands of the
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

// Server serves clients of one guest, or leads each to the server of one.
type Server struct {
	Guest *guest.Client
	Key   ssh.Signer
	// Spec is what the commands of a user begin with: the guest's user and environment.
	Spec func(user string) guest.ExecSpec

	// Authorized says which keys are let in. Nil: whoever made the connection has
	// authenticated the client.
	Authorized func(ssh.PublicKey) bool
	// Find returns the server of the guest that a client's user name stands for. Nil: this one.
	Find func(ctx context.Context, user string) (*Server, error)
}

// greetTime bounds how long a client may take to show its key.
const greetTime = time.Minute

// goodbye is how long commands have to be told that their client has left.
const goodbye = 3 * time.Second

// ciphers are those that a processor does by itself. The two ends are on one host; what
// counts is how much they cost.
var ciphers = []string{"aes128-gcm@openssh.com", "aes256-gcm@openssh.com"}

// Serve serves one client until it leaves or ctx ends. Commands that then still run get
// SIGHUP, as from a terminal that was hung up. The error is that of the greeting.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	config := &ssh.ServerConfig{Config: ssh.Config{Ciphers: ciphers}, NoClientAuth: s.Authorized == nil, ServerVersion: "SSH-2.0-banger"}
	config.AddHostKey(s.Key)
	if s.Authorized != nil {
		config.Ciphers = nil // what such clients speak isn't known
		config.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !s.Authorized(key) {
				return nil, fmt.Errorf("key %s isn't one of the user's", ssh.FingerprintSHA256(key))
			}
			return nil, nil
		}
		_ = conn.SetDeadline(time.Now().Add(greetTime))
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	sc, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		_ = conn.Close()
		return err
	}
	_ = conn.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	if s.Find != nil {
		if s, err = s.Find(ctx, sc.User()); err != nil {
			cancel()
			return refuse(conn, requests, channels, err)
		}
	}
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

// refuse tells a client why there is nothing for it, in answer to the first it asks for.
func refuse(conn net.Conn, requests <-chan *ssh.Request, channels <-chan ssh.NewChannel, why error) error {
	go ssh.DiscardRequests(requests)
	_ = conn.SetDeadline(time.Now().Add(goodbye))
	for nc := range channels {
		_ = nc.Reject(ssh.ConnectionFailed, why.Error()) // it fails when the client has left
	}
	_ = conn.Close()
	return why
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

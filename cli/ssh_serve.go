package cli

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"banger"
	"banger/cli/sshd"
	"banger/guest"
	"banger/host/loopback"
)

// servePort is where ssh-serve listens unless it is told, and maxServed how many clients it
// has at a time.
const (
	servePort = 8722
	maxServed = 1024
)

func sshServeCommand(a *App) *cobra.Command {
	var port int
	cmd := gives(a, &cobra.Command{
		Use:   "ssh-serve",
		Short: "Be an SSH server for clients that know no ProxyCommand",
		Long: `Serves SSH at a port of this host until it is ended. It is for clients with an SSH library
of their own, which read no ProxyCommand; for all others there is "banger ssh-config".

The user name chooses the VM: "web" is the image's user of the VM web, "dev+web" the user
dev there. A stopped VM is started. It listens on 127.0.0.1 and ::1 alone, refuses other
users of this host, and lets in who has a key of yours: those of your ssh agent, of
~/.ssh/*.pub, and one that it makes and names. Connections end with it.`,
		Example: `  banger ssh-serve
  banger ssh-serve --port 2222 &
  ssh -p 8722 dev+web@127.0.0.1`,
		Args: nargs(0, 0),
	}, nil, func(ctx context.Context, _ []string, _ func(...Ran) error) error {
		if a.json {
			return errNoJSON
		}
		if port < 0 || port > 65535 {
			return banger.Errorf(banger.CodeInvalid, "--port is %d; it can be 1 to 65535, or 0 for one that is free", port)
		}
		ctx, stop := interruptible(ctx)
		defer stop()
		return serveSSH(ctx, a, port)
	}, ranNothing)
	cmd.Flags().IntVarP(&port, "port", "p", servePort, "the port; 0: one that is free")
	return cmd
}

// serveSSH serves until ctx ends.
func serveSSH(ctx context.Context, a *App, port int) error {
	all, err := loopback.Listen(port)
	if err != nil {
		e := banger.Errorf(banger.CodeUnavailable, "port %d is taken: %w", port, err)
		if free, ferr := loopback.Free(port); ferr == nil {
			return e.WithHint("--port %d is free", free)
		}
		return e.WithHint("--port 0 takes one that is free")
	}
	at := all[0].Addr().(*net.TCPAddr).Port
	key, known, err := a.SSH.keys().Front("[127.0.0.1]:" + strconv.Itoa(at) + ",[::1]:" + strconv.Itoa(at))
	if err != nil {
		return err
	}
	own, path, err := a.SSH.keys().Client()
	if err != nil {
		return err
	}
	find := func(ctx context.Context, name string) (*sshd.Server, error) { return findServer(ctx, a, name) }
	server := &sshd.Server{Key: key, Find: find, Authorized: func(key ssh.PublicKey) bool {
		return same(key, own) || slices.ContainsFunc(usersKeys(a), func(k ssh.PublicKey) bool { return same(key, k) })
	}}
	a.note("serving at 127.0.0.1, port %d, until Ctrl-C. A client needs:", at)
	a.note("  ssh -p %d -i '%s' -o UserKnownHostsFile='%s' NAME@127.0.0.1", at, path, known)
	var clients sync.WaitGroup
	room := make(chan struct{}, maxServed)
	for _, l := range all {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		defer stop()
		l = loopback.Mine(l, "This is another user's SSH server.\r\n", func(err error) { a.note("refused: %v", err) })
		clients.Go(func() {
			for {
				room <- struct{}{}
				c, err := l.Accept()
				if err != nil { // it was closed, or is broken
					<-room
					return
				}
				clients.Go(func() {
					defer func() { <-room }()
					if err := server.Serve(ctx, c); err != nil && ctx.Err() == nil {
						a.note("a client from %s: %v", c.RemoteAddr(), err)
					}
				})
			}
		})
	}
	clients.Wait()
	if ctx.Err() == nil {
		return banger.Errorf(banger.CodeInternal, "the port %d is no longer listened on", at)
	}
	return nil
}

// findServer returns the server of the VM that a user name of ssh-serve chooses.
func findServer(ctx context.Context, a *App, name string) (*sshd.Server, error) {
	user, ref := sshUser, name
	if i := strings.LastIndexByte(name, '+'); i >= 0 {
		user, ref = name[:i], name[i+1:]
	}
	vm, err := a.VMs().VM(ctx, ref)
	if err == nil {
		vm, err = started(ctx, a, vm)
	}
	if err != nil {
		return nil, err
	}
	server := sshServer(a, vm)
	of := server.Spec
	server.Spec = func(string) guest.ExecSpec { return of(user) }
	return server, nil
}

func same(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// agentTime is how long the user's ssh agent may take.
const agentTime = 5 * time.Second

// usersKeys are the user's own public keys.
func usersKeys(a *App) (keys []ssh.PublicKey) {
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(a.SSH.Config), "*.pub")) // the pattern is well-formed
	for _, path := range files {
		if text, err := os.ReadFile(path); err == nil {
			if key, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
				keys = append(keys, key)
			}
		}
	}
	if path, ok := a.Getenv("SSH_AUTH_SOCK"); ok && path != "" {
		c, err := net.DialTimeout("unix", path, agentTime)
		if err != nil {
			return keys
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(agentTime))
		has, err := agent.NewClient(c).List()
		for _, k := range has {
			keys = append(keys, k)
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			a.note("your ssh agent: %v", err)
		}
	}
	return keys
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
	"banger/guest/flow"
	"banger/host/loopback"
)

// Forward is one way that "forward" keeps open.
type Forward struct {
	Listen  string `json:"listen"`            // where it takes connections: host:port or a socket's path
	To      string `json:"to"`                // where they lead
	Reverse bool   `json:"reverse,omitempty"` // it listens in the VM and leads to this host
}

const forwardPause = 500 * time.Millisecond // until a listener in the VM that broke is opened again

func forwardCommand(a *App) *cobra.Command {
	var reverse bool
	cmd := gives(a, &cobra.Command{
		Use:   "forward VM [FROM:]TO...",
		Short: "Lead ports or sockets of this host into a VM, until Ctrl-C",
		Long: `Leads connections to a port of this host to a port of a running VM, as long as this
command runs. FROM is where it listens, on 127.0.0.1 and ::1, and TO what answers in the
VM; without FROM both have the same number, and 0 is any free port. A path in place of a
number is a Unix socket. Other users of this host are refused. With --publish they aren't.

With --reverse it listens in the VM, and what answers is on this host. Programs in the VM
can reach it then: don't do that with the socket of a container engine or an ssh agent.

A connection breaks when the VM's shim dies, and new ones work on. For ports that stay,
without a command that runs: banger vm set --publish 8080:80 VM.`,
		Example: `  banger forward web 3000
  banger forward web 8080:80 5432
  banger forward web ./docker.sock:/run/docker.sock
  banger forward web --reverse 11434`,
		Args:              nargs(2, -1),
		ValidArgsFunction: a.completeVMs(1),
	}, nil, func(ctx context.Context, args []string, say func(...Forward) error) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		vm, err := a.VMs().VM(ctx, args[0])
		if err != nil {
			return err
		}
		if vm.State != banger.Running {
			return notRunning(vm)
		}
		var ways []*way
		defer func() {
			for _, w := range ways {
				w.close()
			}
		}()
		var told []Forward
		for _, arg := range args[1:] {
			w, err := newWay(arg, reverse)
			if err != nil {
				return err
			}
			if err := w.open(ctx, a, a.guest(vm).Dial); err != nil {
				return err
			}
			ways, told = append(ways, w), append(told, w.Forward)
		}
		if err := say(told...); err != nil {
			return err
		}
		ended := make(chan error, len(ways))
		for _, w := range ways {
			go func() { ended <- w.serve(ctx, a, vm) }()
		}
		select {
		case <-ctx.Done():
			return nil // that is how it ends
		case err := <-ended:
			return err
		}
	}, func(w *page, list []Forward) {
		for _, f := range list {
			from, to := "this host", "the VM"
			if f.Reverse {
				from, to = to, from
			}
			_, _ = fmt.Fprintf(w, "%s of %s leads to %s of %s\n", printable(f.Listen, 400), from, printable(f.To, 400), to)
		}
	})
	cmd.Flags().BoolVar(&reverse, "reverse", false, "listen in the VM, and lead to this host")
	return cmd
}

func notRunning(vm banger.VM) error {
	return banger.Errorf(banger.CodeNotRunning, "vm %s is %s", vm.Spec.Name, vm.State).WithHint("banger vm start %s", vm.Spec.Name)
}

// way is a Forward that is open.
type way struct {
	Forward
	from, to  place
	dial      guest.Dialer
	listeners []net.Listener // on this host

	mu    sync.Mutex
	inVM  *flow.Listener
	ended bool
}

// place is a port of localhost or a socket's path.
type place struct{ network, address string }

func newPlace(text string) (place, error) {
	if strings.ContainsRune(text, '/') {
		return place{"unix", text}, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return place{}, banger.Errorf(banger.CodeInvalid, "%.80q is no port and no path of a socket", text).
			WithHint("banger forward VM 8080:80 leads port 8080 of this host to port 80 of the VM; a path has a /, as ./x.sock")
	}
	return place{"tcp", net.JoinHostPort("localhost", strconv.FormatUint(n, 10))}, nil
}

func newWay(text string, reverse bool) (*way, error) {
	if strings.HasSuffix(text, "/udp") {
		return nil, banger.Errorf(banger.CodeInvalid, "%s: forward carries no UDP", text).WithHint("banger vm set --publish %s VM", text)
	}
	first, second, two := strings.Cut(text, ":")
	if !two {
		second = first
	}
	if first == "" {
		first = "0"
	}
	from, err := newPlace(first)
	if err != nil {
		return nil, err
	}
	to, err := newPlace(second)
	if err == nil && to.address == "localhost:0" {
		err = banger.Errorf(banger.CodeInvalid, "%s: nothing answers at port 0", text)
	}
	return &way{from: from, to: to, Forward: Forward{Listen: from.address, To: to.address, Reverse: reverse}}, err
}

func (w *way) open(ctx context.Context, a *App, dial guest.Dialer) error {
	w.dial = dial
	if w.Reverse {
		return w.openInVM(ctx)
	}
	if w.from.network == "unix" {
		l, err := listenUnix(w.from.address)
		if err != nil {
			return err
		}
		w.listeners = []net.Listener{l}
		return nil
	}
	port := portOf(w.from)
	n, _ := strconv.Atoi(port) // newPlace read it
	all, err := loopback.Listen(n)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return banger.Errorf(banger.CodeConflict, "port %s of this host is taken", port).WithHint("0:%s takes any that is free", portOf(w.to))
	case err != nil:
		return banger.Errorf(banger.CodeUnavailable, "port %s of this host: %w", port, err)
	}
	for _, l := range all {
		w.listeners = append(w.listeners, loopback.Mine(l, "", func(err error) { a.note("refused: %v", err) }))
	}
	_, port, _ = net.SplitHostPort(all[0].Addr().String()) // the kernel chose one for 0
	w.Listen = net.JoinHostPort("localhost", port)
	return nil
}

func portOf(p place) string {
	if _, port, err := net.SplitHostPort(p.address); err == nil {
		return port
	}
	return p.address
}

// listenUnix listens at a path, for this user alone from the first moment. A socket that nobody
// listens on any more is replaced.
func listenUnix(path string) (net.Listener, error) {
	defer syscall.Umask(syscall.Umask(0o077)) // meanwhile this process makes nothing for others
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if st, serr := os.Lstat(path); serr == nil && st.Mode()&fs.ModeSocket != 0 {
			if c, derr := net.Dial("unix", path); derr == nil {
				_ = c.Close()
			} else if errors.Is(derr, syscall.ECONNREFUSED) && os.Remove(path) == nil {
				l, err = net.Listen("unix", path)
			}
		}
	}
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, banger.Errorf(banger.CodeConflict, "%s is there already", path)
		}
		return nil, banger.Errorf(banger.CodeUnavailable, "listen at %s: %w", path, errors.Unwrap(err))
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// openInVM opens the listener in the VM, or opens it again at the same address. The one before
// may be open still, and have that address.
func (w *way) openInVM(ctx context.Context) error {
	at := w.from.address
	if w.inVM != nil {
		_ = w.inVM.Close()
		at = w.inVM.Address
	}
	l, err := flow.Listen(ctx, w.dial, flow.ListenRequest{Network: w.from.network, Address: at})
	if err != nil {
		return fmt.Errorf("listen in the VM at %s: %w", at, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return errors.Join(net.ErrClosed, l.Close())
	}
	w.inVM, w.Listen = l, l.Address
	return nil
}

func (w *way) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for _, l := range w.listeners {
		_ = l.Close()
	}
	if w.inVM != nil {
		_ = w.inVM.Close()
	}
}

// serve carries connections until the VM has ended.
func (w *way) serve(ctx context.Context, a *App, vm banger.VM) error {
	if w.Reverse {
		return w.serveVM(ctx, a, vm)
	}
	ended := make(chan error, len(w.listeners))
	for _, l := range w.listeners {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					ended <- err
					return
				}
				go func() {
					to, err := flow.Dial(ctx, w.dial, flow.DialRequest{Network: w.to.network, Address: w.to.address})
					if err == nil {
						flow.Join(conn.(flow.Duplex), to)
						return
					}
					if t, ok := conn.(*net.TCPConn); ok {
						_ = t.SetLinger(0) // then its client sees that nobody is there
					}
					_ = conn.Close()
					if banger.CodeOf(err) == banger.CodeNotRunning {
						ended <- a.execError(ctx, vm, err)
						return
					}
					a.note("%s: %v", w.To, err)
				}()
			}
		}()
	}
	return <-ended
}

// serveVM does the same for connections that come in the VM. A listener that broke, as when the VM's shim
// died, is opened again.
func (w *way) serveVM(ctx context.Context, a *App, vm banger.VM) error {
	for {
		conn, _, err := w.inVM.Accept(ctx)
		for err != nil {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(forwardPause):
			}
			if err = w.openInVM(ctx); banger.CodeOf(err) == banger.CodeNotRunning || banger.CodeOf(err) == banger.CodeNotFound {
				return a.execError(ctx, vm, err)
			}
			if err == nil {
				conn, _, err = w.inVM.Accept(ctx)
			}
		}
		go func() {
			here, err := new(net.Dialer).DialContext(ctx, w.to.network, w.to.address)
			if err != nil {
				_ = conn.Close()
				a.note("%s: %v", w.To, err)
				return
			}
			flow.Join(here.(flow.Duplex), conn)
		}()
	}
}

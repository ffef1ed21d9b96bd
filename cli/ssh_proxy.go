package cli

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/cli/sshd"
	"banger/guest"
)

func sshProxyCommand(a *App) *cobra.Command {
	return gives(a, &cobra.Command{
		Use:    "ssh-proxy VM",
		Short:  "Be the SSH server of a VM, on standard input and output",
		Hidden: true,
		Long: `Is what ssh runs as its ProxyCommand: an SSH server for one VM on standard input and
output. "banger ssh-config" prints the configuration that says so.`,
		Example:           "  ssh -o ProxyCommand='banger ssh-proxy -- %h' -o User=default web.vm",
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, nil, func(ctx context.Context, args []string, _ func(...Ran) error) error {
		if a.json {
			return errNoJSON
		}
		// Ctrl-C is for ssh, which ends our input; so does a client that has left, by SIGHUP.
		signal.Ignore(syscall.SIGINT)
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGTERM)
		defer stop()
		return proxy(ctx, a, strings.TrimSuffix(args[0], domain))
	}, ranNothing)
}

// proxy serves one client of ssh on the caller's streams.
func proxy(ctx context.Context, a *App, ref string) error {
	vm, err := a.VMs().VM(ctx, ref)
	if err != nil {
		return err
	}
	if vm, err = started(ctx, a, vm); err != nil {
		return err
	}
	var names []string
	if all, err := a.VMs().VMs(ctx); err == nil {
		for _, vm := range all {
			names = append(names, vm.Spec.Name+domain)
		}
	}
	key, err := a.SSH.keys().Host(vm.ID, vm.Spec.Name+domain, names)
	if err != nil {
		return err
	}
	server := sshServer(a, vm)
	server.Key = key
	return server.Serve(ctx, &standard{in: pollable(a.In).(io.Reader), out: pollable(a.Out).(io.Writer)})
}

// started starts a VM that doesn't run.
func started(ctx context.Context, a *App, vm banger.VM) (banger.VM, error) {
	if vm.State == banger.Running {
		return vm, nil
	}
	a.note("starting vm %s", vm.Spec.Name)
	return a.VMs().StartVM(ctx, vm.ID, banger.StartOptions{}, nil)
}

// sshServer is the SSH server of a VM, without a key.
func sshServer(a *App, vm banger.VM) *sshd.Server {
	return &sshd.Server{Guest: a.guest(vm), Spec: func(user string) guest.ExecSpec {
		var s guest.ExecSpec
		if user != sshUser {
			s.User = user
		}
		if c := vm.Config; c != nil {
			s.Env, s.User = slices.Clone(c.Env), cmp.Or(s.User, c.User)
		}
		return s
	}}
}

// pollable is a pipe or socket whose reads end when it is closed; anything else as it is.
func pollable(v any) any {
	f, ok := v.(*os.File)
	if !ok {
		return v
	}
	st, err := f.Stat()
	if err != nil || st.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return v
	}
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil || syscall.SetNonblock(fd, true) != nil {
		return v
	}
	_ = f.Close()
	return os.NewFile(uintptr(fd), f.Name())
}

// standard is standard input and output as one connection.
type standard struct {
	in  io.Reader
	out io.Writer
}

func (s *standard) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *standard) Write(b []byte) (int, error) { return s.out.Write(b) }

// Close ends reads that wait, too, where the stream can.
func (s *standard) Close() error {
	var err error
	for _, end := range []any{s.in, s.out} {
		if c, ok := end.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

func (s *standard) LocalAddr() net.Addr              { return standardAddr{} }
func (s *standard) RemoteAddr() net.Addr             { return standardAddr{} }
func (s *standard) SetDeadline(time.Time) error      { return nil }
func (s *standard) SetReadDeadline(time.Time) error  { return nil }
func (s *standard) SetWriteDeadline(time.Time) error { return nil }

type standardAddr struct{}

func (standardAddr) Network() string { return "stdio" }
func (standardAddr) String() string  { return "stdio" }
